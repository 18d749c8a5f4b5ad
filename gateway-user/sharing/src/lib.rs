//! Collections whose versions share what has not changed.
//!
//! A copy costs one pointer. A change of a copy costs the chunk that it is in and a list of chunks, not all
//! elements; and two versions are compared by looking only into the chunks that they don't share.
//!
//! | type | what it is |
//! |---|---|
//! | [`SharedMap`] | a sorted map, which tells in what it differs from an earlier version |
//! | [`SharedList`] | a list of a fixed length, as fast to read as a slice |

mod list;
mod map;

pub use list::SharedList;
pub use map::{Change, Iter, SharedMap};
