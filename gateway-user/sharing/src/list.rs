//! A list of a fixed length whose versions share what has not changed.

use std::{ops::Index, sync::Arc};

/// Elements of a chunk: what replacing one of them copies.
const CHUNK: usize = 64;

/// A list of a fixed length. A copy costs a pointer, and replacing an element of a copy one chunk and a list
/// of chunks.
#[derive(Clone, Debug)]
pub struct SharedList<T> {
    /// All of [`CHUNK`] elements but for the last.
    chunks: Arc<[Arc<[T]>]>,
}

impl<T> SharedList<T> {
    /// All elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl<T: Clone> SharedList<T> {
    /// Puts an element in the place of that at `index`.
    ///
    /// # Panics
    /// If there is none at `index`.
    pub fn replace(&mut self, index: usize, element: T) {
        let chunks = Arc::make_mut(&mut self.chunks);
        Arc::make_mut(&mut chunks[index / CHUNK])[index % CHUNK] = element;
    }
}

impl<T> FromIterator<T> for SharedList<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements = elements.into_iter().peekable();
        let mut chunks = Vec::new();
        while elements.peek().is_some() {
            chunks.push(elements.by_ref().take(CHUNK).collect());
        }
        Self {
            chunks: chunks.into(),
        }
    }
}

impl<T> Index<usize> for SharedList<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let mut elements: Vec<usize> = (0..length).collect();
            let first: SharedList<usize> = elements.iter().copied().collect();
            assert!(first.iter().eq(&elements), "{length}");
            let mut next = first.clone();
            for index in (0..length).step_by(5) {
                next.replace(index, index + 1000);
                assert_eq!((first[index], next[index]), (index, index + 1000));
                elements[index] += 1000;
            }
            assert!(next.iter().eq(&elements), "{length}");
        }
    }

    #[test]
    fn a_replaced_element_costs_its_chunk() {
        let first: SharedList<usize> = (0..10 * CHUNK).collect();
        let mut next = first.clone();
        next.replace(3 * CHUNK + 1, 0);
        let pairs = first.chunks.iter().zip(&*next.chunks);
        let own: Vec<_> = pairs.map(|(old, new)| !Arc::ptr_eq(old, new)).collect();
        assert_eq!(own.iter().position(|own| *own), Some(3));
        assert_eq!(own.iter().filter(|own| **own).count(), 1);
    }
}
