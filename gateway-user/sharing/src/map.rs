//! A sorted map whose versions share what has not changed.

use std::{borrow::Borrow, cmp::Ordering, fmt, iter, ops::Index, slice, sync::Arc};

use serde::{Serialize, Serializer};

/// Entries of a full chunk: what a change of one entry copies.
const CHUNK: usize = 128;

/// A map that is sorted by its keys. A copy costs a pointer, and a change of a copy one chunk of entries and a
/// list of chunks; [`Self::changes_since`] passes over the chunks that two versions share.
pub struct SharedMap<K, V> {
    /// None is empty, and each begins after the one before ends.
    chunks: Arc<Vec<Chunk<K, V>>>,
    length: usize,
}

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// What an entry was in an earlier version of a map, and what it is now: another one, at least one of both.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'m, K, V> {
    /// The entry's key.
    pub key: &'m K,
    /// None: there was no entry.
    pub before: Option<&'m V>,
    /// None: there is no entry any more.
    pub after: Option<&'m V>,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All entries, by key.
    pub fn iter(&self) -> Iter<'_, K, V> {
        fn entries<K, V>(chunk: &Chunk<K, V>) -> slice::Iter<'_, (K, V)> {
            chunk.iter()
        }
        fn pair<K, V>((key, value): &(K, V)) -> (&K, &V) {
            (key, value)
        }
        self.chunks
            .iter()
            .flat_map(entries as fn(&Chunk<K, V>) -> slice::Iter<'_, (K, V)>)
            .map(pair as fn(&(K, V)) -> (&K, &V))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Where the key is or would be: the chunk, and the place in it if it is there, else where it would go.
    fn find<Q>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        // The last chunk that begins at the key or before; keys before all chunks go to the first.
        let begins_after = |chunk: &Chunk<K, V>| {
            let first = chunk.first();
            first.is_some_and(|(first, _)| first.borrow() > key)
        };
        let after = self.chunks.partition_point(|chunk| !begins_after(chunk));
        let at = after.saturating_sub(1);
        let within = self.chunks.get(at).map_or(Err(0), |chunk| {
            chunk.binary_search_by(|(other, _)| other.borrow().cmp(key))
        });
        (at, within)
    }

    /// The value of a key.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, within) = self.find(key);
        let place = within.ok()?;
        Some(&self.chunks[chunk][place].1)
    }

    /// Whether it has the key.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.find(key).1.is_ok()
    }
}

impl<K: Clone + Ord, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key; gives what it was.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (at, within) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        match within {
            Ok(place) => return Some(std::mem::replace(&mut chunk[place].1, value)),
            Err(place) => chunk.insert(place, (key, value)),
        }
        if chunk.len() > CHUNK {
            // One that grows at its end, as where all comes in order, leaves full chunks behind.
            let middle = if within == Err(CHUNK) {
                CHUNK
            } else {
                CHUNK / 2
            };
            let rest = chunk.split_off(middle);
            chunks.insert(at + 1, Arc::new(rest));
        }
        self.length += 1;
        None
    }

    /// Takes a key out; gives its value.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (at, within) = self.find(key);
        let place = within.ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(place);
        self.length -= 1;
        let left = chunk.len();
        if left == 0 {
            chunks.remove(at);
        } else if chunks
            .get(at + 1)
            .is_some_and(|next| left + next.len() <= CHUNK / 2)
        {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The entries that are not those of an earlier version, by key. `same` compares the values of a key;
    /// entries in chunks that both versions share are passed over.
    fn differences<'m>(
        &'m self,
        before: &'m Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> impl Iterator<Item = Change<'m, K, V>> {
        let (mut old, mut new) = (Cursor::new(before), Cursor::new(self));
        iter::from_fn(move || {
            loop {
                while old.is_at_what(&new) {
                    old.skip_chunk();
                    new.skip_chunk();
                }
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((old, _)), Some((new, _))) => old.cmp(new),
                };
                let before = old.next_if(order.is_le());
                let after = new.next_if(order.is_ge());
                let (key, _) = before.or(after)?;
                let (before, after) = (
                    before.map(|(_, value)| value),
                    after.map(|(_, value)| value),
                );
                match (before, after) {
                    (Some(before), Some(after)) if same(before, after) => {}
                    _ => return Some(Change { key, before, after }),
                }
            }
        })
    }
}

impl<K: Ord, T> SharedMap<K, Arc<T>> {
    /// In what this differs from an earlier version, by key; values are the same if they are one in memory.
    pub fn changes_since<'m>(
        &'m self,
        before: &'m Self,
    ) -> impl Iterator<Item = Change<'m, K, Arc<T>>> {
        self.differences(before, Arc::ptr_eq)
    }
}

/// A place in a map.
struct Cursor<'m, K, V> {
    chunks: &'m [Chunk<K, V>],
    /// The place in the first of `chunks`.
    at: usize,
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m SharedMap<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            at: 0,
        }
    }

    /// Whether both are at the beginning of the same chunk.
    fn is_at_what(&self, other: &Self) -> bool {
        let (Some(one), Some(two)) = (self.chunks.first(), other.chunks.first()) else {
            return false;
        };
        (self.at, other.at) == (0, 0) && Arc::ptr_eq(one, two)
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.at = 0;
    }

    fn peek(&self) -> Option<&'m (K, V)> {
        self.chunks.first().map(|chunk| &chunk[self.at])
    }

    fn next_if(&mut self, wanted: bool) -> Option<&'m (K, V)> {
        let next = self.peek().filter(|_| wanted)?;
        self.at += 1;
        if self
            .chunks
            .first()
            .is_some_and(|chunk| self.at == chunk.len())
        {
            self.skip_chunk();
        }
        Some(next)
    }
}

/// Goes through a map.
pub type Iter<'m, K, V> = iter::Map<
    iter::FlatMap<
        slice::Iter<'m, Chunk<K, V>>,
        slice::Iter<'m, (K, V)>,
        fn(&Chunk<K, V>) -> slice::Iter<'_, (K, V)>,
    >,
    fn(&(K, V)) -> (&K, &V),
>;

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            length: 0,
        }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: Arc::clone(&self.chunks),
            length: self.length,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// Chunks that are shared are taken for equal without a look.
impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.differences(other, V::eq).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

/// Of several entries with one key, the last counts.
impl<K: Clone + Ord, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<'m, K, V> IntoIterator for &'m SharedMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Iter<'m, K, V> {
        self.iter()
    }
}

impl<K, V, Q> Index<&Q> for SharedMap<K, V>
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    type Output = V;

    /// # Panics
    /// If the map does not have the key.
    fn index(&self, key: &Q) -> &V {
        let Some(value) = self.get(key) else {
            panic!("there is no such key in the map");
        };
        value
    }
}

#[cfg(test)]
mod tests;
