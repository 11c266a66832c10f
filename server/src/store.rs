//! Responses that may be asked for again and gone on from: in memory, within a budget of bytes, for some time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::Value;
use tokio::time::Instant;

use crate::config::ResponseStore;

/// Whose a response is: the digest of an API key, where keys are asked for.
pub type Owner = Option<[u8; 32]>;

/// What an entry takes beside its texts.
const OVERHEAD: u64 = 512;

/// What was said in one exchange: a JSON list of chat messages, the answer last.
#[derive(Debug)]
pub struct Turn {
    messages: String,
    _held: Held,
}

/// Everything of a response but its answer.
#[derive(Debug)]
pub struct Draft {
    pub id: String,
    pub owner: Owner,
    /// What was said before.
    pub past: Vec<Arc<Turn>>,
    /// What was asked, as chat messages.
    pub asked: Vec<Value>,
}

/// The responses that are kept.
#[derive(Debug)]
pub struct Store {
    settings: ResponseStore,
    used: Arc<AtomicU64>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<String, Entry>,
    /// Ids by age.
    order: BTreeMap<u64, String>,
    next: u64,
    /// Whether a task waits for the oldest entry to grow too old.
    cleaning: bool,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    number: u64,
    until: Instant,
    object: String,
    turns: Vec<Arc<Turn>>,
    _held: Held,
}

/// Bytes that count as used as long as this lives.
#[derive(Debug)]
struct Held {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Held {
    fn new(used: &Arc<AtomicU64>, bytes: u64) -> Self {
        used.fetch_add(bytes, Ordering::Relaxed);
        Self { used: Arc::clone(used), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Turn {
    /// The chat messages of all `turns`, in order.
    ///
    /// # Errors
    /// Never for turns that a [`Store`] made.
    pub fn messages(turns: &[Arc<Self>]) -> Result<Vec<Value>, serde_json::Error> {
        let mut all = Vec::new();
        for turn in turns {
            all.append(&mut serde_json::from_str(&turn.messages)?);
        }
        Ok(all)
    }
}

impl Store {
    /// An empty store.
    pub fn new(settings: ResponseStore) -> Arc<Self> {
        Arc::new(Self { settings, used: Arc::default(), kept: Mutex::default() })
    }

    /// Whether anything is ever kept.
    pub fn is_on(&self) -> bool {
        self.settings.bytes > 0
    }

    /// What was said up to a response and with it.
    pub fn turns(&self, owner: Owner, id: &str) -> Option<Vec<Arc<Turn>>> {
        let mut kept = self.lock();
        kept.drop_old();
        kept.find(owner, id).map(|entry| entry.turns.clone())
    }

    /// The JSON of a response.
    pub fn object(&self, owner: Owner, id: &str) -> Option<String> {
        let mut kept = self.lock();
        kept.drop_old();
        kept.find(owner, id).map(|entry| entry.object.clone())
    }

    /// Forgets a response, and tells whether there was one.
    pub fn remove(&self, owner: Owner, id: &str) -> bool {
        let mut kept = self.lock();
        kept.drop_old();
        let Some(number) = kept.find(owner, id).map(|entry| entry.number) else { return false };
        kept.remove(number);
        true
    }

    /// Keeps a response with its `answer` (a chat message) and its `object`; the oldest ones give way. Returns whether
    /// it is kept: what is larger than the whole budget is not.
    pub fn keep(self: &Arc<Self>, draft: Draft, answer: Value, object: &Value) -> bool {
        let Draft { id, owner, past: mut turns, asked: mut messages } = draft;
        messages.push(answer);
        let (messages, object) = (Value::from(messages).to_string(), object.to_string());
        let links = (turns.len() * size_of::<Arc<Turn>>()) as u64;
        let own = Held::new(&self.used, object.len() as u64 + links + OVERHEAD);
        let held = Held::new(&self.used, messages.len() as u64);
        turns.push(Arc::new(Turn { messages, _held: held }));
        let until = Instant::now() + self.settings.life;
        let mut kept = self.lock();
        let number = kept.next;
        kept.next += 1;
        kept.order.insert(number, id.clone());
        kept.entries.insert(id, Entry { owner, number, until, object, turns, _held: own });
        // What others were built on goes when the last of them does.
        while self.used.load(Ordering::Relaxed) > self.settings.bytes
            && let Some(oldest) = kept.order.keys().next().copied()
        {
            kept.remove(oldest);
        }
        if !kept.cleaning && !kept.order.is_empty() {
            kept.cleaning = true;
            tokio::spawn(clean(Arc::downgrade(self)));
        }
        kept.order.contains_key(&number)
    }

    /// The entries. They are whole even where a thread panicked.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&self, owner: Owner, id: &str) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.owner == owner)
    }

    fn remove(&mut self, number: u64) {
        if let Some(id) = self.order.remove(&number) {
            self.entries.remove(&id);
        }
    }

    /// Drops what is too old, and returns when the next entry will be.
    fn drop_old(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some((number, id)) = self.order.first_key_value() {
            match self.entries.get(id) {
                Some(entry) if entry.until > now => return Some(entry.until),
                _ => {
                    let number = *number;
                    self.remove(number);
                }
            }
        }
        None
    }
}

/// Drops entries as they grow too old, until there are none.
async fn clean(store: Weak<Store>) {
    loop {
        let next = {
            let Some(store) = store.upgrade() else { return };
            let mut kept = store.lock();
            let next = kept.drop_old();
            kept.cleaning = next.is_some();
            next
        };
        match next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const MINE: Owner = Some([1; 32]);

    fn draft(id: &str, owner: Owner, past: &[Arc<Turn>]) -> Draft {
        let asked = vec![json!({ "role": "user", "content": id })];
        Draft { id: id.to_owned(), owner, past: past.to_vec(), asked }
    }

    fn keep(store: &Arc<Store>, id: &str, past: &[Arc<Turn>], object: &str) -> bool {
        let answer = json!({ "role": "assistant", "content": "yes" });
        store.keep(draft(id, MINE, past), answer, &json!(object))
    }

    fn run<T>(bytes: u64, life: Duration, test: impl AsyncFnOnce(Arc<Store>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let store = Store::new(ResponseStore { bytes, life });
        runtime.unwrap().block_on(test(store))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_kept_is_found_by_its_owner_alone() {
        run(1 << 20, HOUR, async |store| {
            assert!(keep(&store, "a", &[], "A"));
            let past = store.turns(MINE, "a").unwrap();
            assert!(keep(&store, "b", &past, "B"));
            let said = Turn::messages(&store.turns(MINE, "b").unwrap()).unwrap();
            let words: Vec<&str> = said.iter().map(|m| m["content"].as_str().unwrap()).collect();
            assert_eq!(words, ["a", "yes", "b", "yes"]);
            assert_eq!(store.object(MINE, "b").as_deref(), Some("\"B\""));
            for other in [None, Some([2; 32])] {
                assert!(store.turns(other, "a").is_none() && store.object(other, "a").is_none());
                assert!(!store.remove(other, "a"));
            }
            // What was gone on from may be forgotten.
            assert!(store.remove(MINE, "a") && !store.remove(MINE, "a"));
            assert_eq!(Turn::messages(&store.turns(MINE, "b").unwrap()).unwrap().len(), 4);
            assert!(store.remove(MINE, "b"));
            drop(past);
            assert_eq!(store.used.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn the_oldest_give_way_and_what_is_too_large_is_not_kept() {
        run(10_000, HOUR, async |store| {
            assert!(!keep(&store, "large", &[], &"x".repeat(10_000)));
            assert_eq!(store.used.load(Ordering::Relaxed), 0);
            for id in 0..100 {
                assert!(keep(&store, &id.to_string(), &[], &"x".repeat(1000)));
                assert!(store.used.load(Ordering::Relaxed) <= 10_000);
            }
            assert!(store.object(MINE, "99").is_some() && store.object(MINE, "98").is_some());
            assert!(store.object(MINE, "0").is_none());
            // A conversation counts once, however often it is gone on from.
            let mut past = Vec::new();
            for id in ["a", "b", "c", "d"] {
                assert!(keep(&store, id, &past, "x"));
                past = store.turns(MINE, id).unwrap();
            }
            assert!(["a", "b", "c", "d"].iter().all(|id| store.object(MINE, id).is_some()));
        });
    }

    #[test]
    fn what_is_too_old_goes_without_being_asked_for() {
        run(1 << 20, Duration::from_millis(50), async |store| {
            for _ in 0..2 {
                assert!(keep(&store, "a", &[], "A"));
                assert!(store.object(MINE, "a").is_some());
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert_eq!(store.used.load(Ordering::Relaxed), 0);
                assert!(store.object(MINE, "a").is_none() && !store.lock().cleaning);
            }
        });
    }
}
