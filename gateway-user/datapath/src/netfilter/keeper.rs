//! Looks after our rules: a firewall that is reloaded takes them away, and a kube-proxy that is started
//! later puts its own before them.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Error, PLACES, Place, Tools, run};

/// How often the rules are looked at, where looking takes no time to speak of.
const LOOK: Duration = Duration::from_secs(5);
/// Looking takes at most this part of the time: legacy iptables fetches whole tables, and kube-proxy's
/// may have a hundred thousand rules.
const SHARE: u32 = 50;
/// The longest pause: a look may have taken long only because another program held the tables' lock.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);

/// Somebody else may insist on being first too. Both would replace the table again and again, so ours
/// goes ahead only so many times in such a while.
const MOVES: usize = 3;
const WHILE: Duration = Duration::from_mins(10);

/// Our rules of a family.
#[derive(Debug)]
pub struct Keeper {
    tools: Tools,
    places: [Kept; PLACES.len()],
    /// What is wrong, as was said; `None` if nothing is.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Kept {
    place: Place,
    /// Our chain as the tool lists it; `None` before it was set.
    listed: Option<String>,
    /// When the rules were set again.
    repairs: Vec<Instant>,
}

/// How one of our chains is found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Fine,
    /// The chain or its call is not there, or not as it was.
    Gone,
    /// This rule is before its call.
    Behind(String),
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    Leave,
    Set,
    /// The last time for a while that it is told of, or done.
    SetForTheLastTime,
    SetQuietly,
}

/// Looks after the rules for as long as it is polled.
pub async fn keep(mut keepers: Vec<Keeper>) {
    loop {
        let start = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            keepers.iter_mut().for_each(Keeper::look);
            keepers
        });
        keepers = match looked.await {
            Ok(keepers) => keepers,
            Err(error) => {
                warn!(%error, "nobody looks after netfilter's rules any more");
                return;
            }
        };
        let pause = (start.elapsed() * SHARE).clamp(LOOK, LOOK_AT_LEAST);
        tokio::time::sleep(pause).await;
    }
}

impl Keeper {
    /// Sets the rules, or sets them anew: doing it twice changes nothing. Where that fails, it is told, and
    /// [`keep`] tries again.
    pub fn install(tools: Tools) -> Self {
        let mut keeper = Self {
            tools,
            places: PLACES.map(|place| Kept {
                place,
                listed: None,
                repairs: Vec::new(),
            }),
            trouble: None,
        };
        keeper.look();
        keeper
    }

    /// Whether the rules were set when they were last looked at.
    pub fn is_fine(&self) -> bool {
        self.trouble.is_none()
    }

    fn look(&mut self) {
        let tools = self.tools;
        let looked = self.places.iter_mut().map(|kept| kept.look(tools));
        let errors: Vec<_> = looked.filter_map(Result::err).collect();
        let trouble = errors.first().map(ToString::to_string);
        if self.trouble == trouble {
            return;
        }
        if let Some(error) = &trouble {
            warn!(
                %error,
                "packets are neither masqueraded nor refused: from outside, endpoints on other nodes \
                 are out of reach"
            );
        } else {
            info!(
                tool = tools.iptables.name(),
                "netfilter's rules are set now"
            );
        }
        self.trouble = trouble;
    }
}

impl Kept {
    fn look(&mut self, tools: Tools) -> Result<(), Error> {
        let Place { chain, ours, .. } = self.place;
        let calls = self.list(tools, chain)?;
        // Listing a chain that is not there is refused; what else is wrong shows in setting it.
        let rules = self.list(tools, ours).ok();
        let Some(expected) = &self.listed else {
            return self.set(tools, &calls);
        };
        let condition = match rules {
            Some(rules) if rules == *expected => self.place.condition(&calls),
            _ => Condition::Gone,
        };
        let repair = self.repair(&condition, Instant::now());
        if repair == Repair::Leave {
            return Ok(());
        }
        self.set(tools, &calls)?;
        self.repairs.push(Instant::now());
        if repair == Repair::SetQuietly {
            return Ok(());
        }
        let again = match repair {
            Repair::SetForTheLastTime => {
                "; it has happened again and again, and is not told for some minutes"
            }
            _ => "",
        };
        let (iptables, table) = (tools.iptables.name(), self.place.table);
        if let Condition::Behind(rule) = condition {
            warn!(
                iptables,
                table,
                rule,
                "a rule has come before the call of {ours}, which is first again{again}"
            );
        } else {
            warn!(
                iptables,
                table, "somebody has removed or changed {ours}, which is set again{again}"
            );
        }
        Ok(())
    }

    /// The rules of a chain, as they were added.
    fn list(&self, tools: Tools, chain: &str) -> Result<String, Error> {
        let arguments = ["-w", "5", "-t", self.place.table, "-S", chain];
        run(tools.iptables, &arguments, "")
    }

    fn set(&mut self, tools: Tools, calls: &str) -> Result<(), Error> {
        let text = self.place.text(tools, self.place.calls(calls));
        run(tools.restore, &["-w", "5", "--noflush"], &text)?;
        self.listed = Some(self.list(tools, self.place.ours)?);
        Ok(())
    }

    fn repair(&mut self, condition: &Condition, now: Instant) -> Repair {
        let recent = |repair: &Instant| now.duration_since(*repair) < WHILE;
        self.repairs.retain(recent);
        match (condition, self.repairs.len() + 1) {
            (Condition::Fine, _) => Repair::Leave,
            (_, MOVES) => Repair::SetForTheLastTime,
            (_, ..MOVES) => Repair::Set,
            (Condition::Behind(_), _) => Repair::Leave,
            (Condition::Gone, _) => Repair::SetQuietly,
        }
    }
}

impl Place {
    /// How many of the listed rules call our chain.
    fn calls(self, listed: &str) -> usize {
        listed.lines().filter(|rule| self.is_call(rule)).count()
    }

    fn is_call(self, rule: &str) -> bool {
        rule.strip_prefix("-A ") == Some(&self.call())
    }

    fn condition(self, listed: &str) -> Condition {
        // The chain's policy comes first.
        let mut rules = listed.lines().filter(|line| line.starts_with("-A "));
        let Some(first) = rules.next() else {
            return Condition::Gone;
        };
        if self.is_call(first) {
            Condition::Fine
        } else if rules.any(|rule| self.is_call(rule)) {
            Condition::Behind(first.to_owned())
        } else {
            Condition::Gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::V4, *};

    const NAT: Place = PLACES[0];
    const CALL: &str = "-A POSTROUTING -m comment --comment \"nodegate: Service traffic\" -j \
                        NODEGATE-POSTROUTING\n";
    const KUBE_PROXY: &str = "-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j \
                              KUBE-POSTROUTING\n";

    fn kept() -> Kept {
        Kept {
            place: NAT,
            listed: None,
            repairs: Vec::new(),
        }
    }

    #[test]
    fn only_the_first_rule_is_in_front() {
        let listed = |rules: &[&str]| format!("-P POSTROUTING ACCEPT\n{}", rules.concat());
        let behind = Condition::Behind(KUBE_PROXY.trim_end().to_owned());
        for (rules, condition) in [
            (&[][..], Condition::Gone),
            (&[KUBE_PROXY], Condition::Gone),
            (&[CALL], Condition::Fine),
            (&[CALL, KUBE_PROXY], Condition::Fine),
            (&[KUBE_PROXY, CALL], behind),
        ] {
            assert_eq!(NAT.condition(&listed(rules)), condition, "{rules:?}");
        }
    }

    #[test]
    fn a_call_is_replaced_where_it_is_and_made_where_it_is_not() {
        let replaced = NAT.text(V4, NAT.calls(&[KUBE_PROXY, CALL].concat()));
        assert_eq!(replaced.matches("\n-D POSTROUTING ").count(), 1);
        assert_eq!(replaced.matches("\n-I POSTROUTING ").count(), 1);
        let made = NAT.text(V4, NAT.calls(KUBE_PROXY));
        assert!(!made.contains("-D "), "{made}");
        assert_eq!(made.matches("\n-I POSTROUTING ").count(), 1);
    }

    #[test]
    fn who_insists_on_being_first_too_is_let_for_a_while() {
        let behind = Condition::Behind(KUBE_PROXY.to_owned());
        let mut kept = kept();
        let start = Instant::now();
        let mut repairs = Vec::new();
        for minute in 0..12 {
            let now = start + Duration::from_mins(minute);
            let repair = kept.repair(&behind, now);
            if repair != Repair::Leave {
                kept.repairs.push(now);
            }
            repairs.push(repair);
        }
        assert_eq!(
            repairs[..3],
            [Repair::Set, Repair::Set, Repair::SetForTheLastTime]
        );
        assert_eq!(repairs[3..10], [Repair::Leave; 7]);
        // The first is ten minutes ago.
        assert_eq!(repairs[10], Repair::SetForTheLastTime);
    }

    #[test]
    fn what_is_gone_is_always_set_again() {
        let mut kept = kept();
        let now = Instant::now();
        for expected in [
            Repair::Set,
            Repair::Set,
            Repair::SetForTheLastTime,
            Repair::SetQuietly,
        ] {
            assert_eq!(kept.repair(&Condition::Gone, now), expected);
            kept.repairs.push(now);
        }
        assert_eq!(kept.repair(&Condition::Fine, now), Repair::Leave);
    }
}
