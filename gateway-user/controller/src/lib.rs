//! What only one process of a cluster may do, or what one is enough for. Traffic needs none of it.
//!
//! | file | what it does |
//! |---|---|
//! | [`review`] | pure: what `nodegate check` would say of an object that somebody applies |
//! | [`webhook`] | the API server asks for that, over HTTPS |
//! | [`certificate`] | the certificate of that server: made, renewed, and put where the API server looks |
//! | [`events`] | faults of objects as Events on them |
//! | [`conditions`] | the same in their status, and the last version that was accepted |
//! | [`leader`] | which of several processes writes |
//! | [`controller`] | all of it |

pub mod certificate;
mod conditions;
pub mod controller;
mod events;
mod faults;
mod leader;
pub mod review;
pub mod webhook;

pub use controller::Controller;
