//! Which request came over which decision.
//!
//! Decisions are numbered. A packet's decision says from where the client connects; a socket's does
//! not yet, but its cookie comes again when it does. A request says from where its client connected.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use nodegate_admin::{
    trace::{Kind, Line},
    wanted::Format,
};

/// How long a request waits for its decision, which may come by another way.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Connections that are remembered.
const MOST: usize = 65_536;

/// Numbers decisions, and gives requests the number of theirs.
#[derive(Debug)]
pub(super) struct Joiner {
    format: Format,
    /// Whether requests without a decision are shown.
    alone: bool,
    decisions: u64,
    by_socket: Remembered<u64>,
    by_ends: Remembered<(SocketAddr, SocketAddr)>,
    waiting: VecDeque<(Instant, Line)>,
}

/// The latest numbers of decisions.
#[derive(Debug)]
struct Remembered<K> {
    numbers: HashMap<K, u64>,
    order: VecDeque<K>,
}

impl<K: Copy + Eq + std::hash::Hash> Remembered<K> {
    fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn put(&mut self, key: K, number: u64) {
        if self.numbers.insert(key, number).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<u64> {
        self.numbers.get(key).copied()
    }
}

impl Joiner {
    /// `alone`: also show requests whose connection is older than the trace, or masqueraded.
    pub(super) fn new(format: Format, alone: bool) -> Self {
        Self {
            format,
            alone,
            decisions: 0,
            by_socket: Remembered::new(),
            by_ends: Remembered::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Takes a line, and gives those that can be shown.
    pub(super) fn take(&mut self, line: Line, now: Instant) -> Vec<String> {
        match line.kind {
            Kind::Decision => {
                self.decisions += 1;
                if let Some(cookie) = line.cookie {
                    self.by_socket.put(cookie, self.decisions);
                }
                let number = self.decisions;
                let mut shown = vec![self.numbered(number, &line.line)];
                shown.extend(self.connects(&line, number));
                shown
            }
            Kind::Connected => match line.cookie.and_then(|cookie| self.by_socket.get(&cookie)) {
                Some(number) => self.connects(&line, number),
                None => Vec::new(),
            },
            // It belongs to no connection.
            Kind::Lost => vec![match self.format {
                Format::Text => format!("{:<5} {}", "...", line.line),
                Format::Json => line.line,
            }],
            Kind::Request => {
                let ends = line.from.zip(line.to);
                if let Some(number) = ends.and_then(|ends| self.by_ends.get(&ends)) {
                    return vec![self.numbered(number, &line.line)];
                }
                self.waiting.push_back((now + PATIENCE, line));
                Vec::new()
            }
        }
    }

    /// It is known now from where a decision's client connects: its requests need not wait.
    fn connects(&mut self, line: &Line, number: u64) -> Vec<String> {
        let Some(ends) = line.from.zip(line.to) else {
            return Vec::new();
        };
        self.by_ends.put(ends, number);
        let waiting = std::mem::take(&mut self.waiting);
        let mut shown = Vec::new();
        for (until, waiting) in waiting {
            if waiting.from.zip(waiting.to) == Some(ends) {
                shown.push(self.numbered(number, &waiting.line));
            } else {
                self.waiting.push_back((until, waiting));
            }
        }
        shown
    }

    /// When the next request has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(until, _)| *until)
    }

    /// Requests that have waited long enough.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some((until, line)) = self.waiting.pop_front() {
            if until > now {
                self.waiting.push_front((until, line));
                break;
            }
            if self.alone {
                shown.push(match self.format {
                    Format::Text => format!("{:<5} {}", "-", line.line),
                    Format::Json => line.line,
                });
            }
        }
        shown
    }

    fn numbered(&self, number: u64, line: &str) -> String {
        match self.format {
            Format::Text => format!("{:<5} {line}", format!("#{number}")),
            Format::Json => match line.strip_prefix('{') {
                Some(rest) => format!("{{\"connection\":{number},{rest}"),
                None => line.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.168.170.1:40000";
    const BACKEND: &str = "10.10.1.4:8080";

    fn line(kind: Kind, cookie: Option<u64>, from: Option<&str>, text: &str) -> Line {
        Line {
            kind,
            cookie,
            from: from.map(|at| at.parse().unwrap()),
            to: Some(BACKEND.parse().unwrap()),
            line: text.to_owned(),
        }
    }

    fn text() -> Joiner {
        Joiner::new(Format::Text, true)
    }

    #[test]
    fn a_request_has_the_number_of_its_packets_decision() {
        let (mut joiner, now) = (text(), Instant::now());
        let mut take = |line| joiner.take(line, now);
        let other = line(Kind::Decision, None, Some("192.168.170.1:1"), "other");
        assert_eq!(take(other), ["#1    other"]);
        let decision = line(Kind::Decision, None, Some(CLIENT), "decision");
        assert_eq!(take(decision), ["#2    decision"]);
        for text in ["one", "two"] {
            let request = line(Kind::Request, None, Some(CLIENT), text);
            assert_eq!(take(request), [format!("#2    {text}")]);
        }
        assert_eq!(joiner.due(), None);
    }

    #[test]
    fn a_socket_is_known_by_its_cookie() {
        let (mut joiner, now) = (text(), Instant::now());
        let mut take = |line| joiner.take(line, now);
        for cookie in [7, 8] {
            take(line(Kind::Decision, Some(cookie), None, "decision"));
        }
        assert!(take(line(Kind::Connected, Some(8), Some(CLIENT), "")).is_empty());
        assert!(take(line(Kind::Connected, Some(9), Some("1.1.1.1:1"), "")).is_empty());
        let request = line(Kind::Request, None, Some(CLIENT), "request");
        assert_eq!(take(request), ["#2    request"]);
    }

    #[test]
    fn a_request_may_overtake_its_decision() {
        let (mut joiner, now) = (text(), Instant::now());
        let request = line(Kind::Request, None, Some(CLIENT), "request");
        assert!(joiner.take(request, now).is_empty());
        let decision = line(Kind::Decision, None, Some(CLIENT), "decision");
        let shown = joiner.take(decision, now);
        assert_eq!(shown, ["#1    decision", "#1    request"]);
        assert_eq!(joiner.due(), None);
    }

    #[test]
    fn one_without_a_decision_is_shown_late_or_not_at_all() {
        let now = Instant::now();
        for (alone, shown) in [(true, vec!["-     request"]), (false, vec![])] {
            let mut joiner = Joiner::new(Format::Text, alone);
            joiner.take(line(Kind::Request, None, Some(CLIENT), "request"), now);
            let due = joiner.due().unwrap();
            assert!(joiner.give_up(now).is_empty());
            assert_eq!(joiner.give_up(due), shown);
            assert_eq!(joiner.due(), None);
        }
    }

    #[test]
    fn a_gap_is_shown_where_it_is() {
        let mut joiner = Joiner::new(Format::Text, true);
        let mut take = |line| joiner.take(line, Instant::now());
        take(line(Kind::Decision, None, Some(CLIENT), "decision"));
        let gap = take(line(Kind::Lost, None, None, "7 decisions are missing here"));
        assert_eq!(gap, ["...   7 decisions are missing here"]);
    }

    #[test]
    fn json_has_the_number_as_a_member() {
        let (mut joiner, now) = (Joiner::new(Format::Json, true), Instant::now());
        let decision = line(Kind::Decision, None, Some(CLIENT), r#"{"hook":"ingress"}"#);
        assert_eq!(
            joiner.take(decision, now),
            [r#"{"connection":1,"hook":"ingress"}"#]
        );
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut remembered = Remembered::new();
        for key in 0..=MOST {
            remembered.put(key, 1);
        }
        assert_eq!(remembered.get(&0), None);
        assert_eq!(remembered.get(&MOST), Some(1));
        assert_eq!(remembered.numbers.len(), MOST);
    }
}
