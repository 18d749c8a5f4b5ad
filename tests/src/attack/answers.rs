//! Answers of endpoints that two readers may understand otherwise, or that are too much: what gets to the
//! client, and that nobody gets what was meant for somebody else.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::{
    neighbour::is_served,
    outcome::{Outcome, Reach},
    said::{Answer, EVIL, POISON},
    target::Target,
};

impl Answer {
    /// Asks for it; others must get their own answers meanwhile and afterwards.
    pub(super) fn run(&self, target: &mut Target) -> anyhow::Result<Outcome> {
        let mut stream = TcpStream::connect(target.plain)?;
        stream.set_read_timeout(Some(patience::limit()))?;
        let request = format!(
            "GET {EVIL}{} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            self.name
        );
        stream.write_all(request.as_bytes())?;
        let mut heard = Vec::new();
        // A reset in the middle of a body is an answer, too.
        let _ = stream.read_to_end(&mut heard);
        let heard = String::from_utf8_lossy(&heard).into_owned();
        let final_at = heard.rfind("HTTP/1.1 ").map(|at| &heard[at + 9..]);
        let status: Option<u16> = final_at.and_then(|rest| rest.get(..3)?.parse().ok());
        let is_passed = status.is_some_and(|status| status < 500);
        let reach = if is_passed {
            Reach::Through(1)
        } else {
            Reach::Refused
        };
        let told = match status {
            Some(status) if is_passed => format!("passes, {status}"),
            Some(status) => status.to_string(),
            None => "no answer".into(),
        };
        let mut outcome = Outcome::new(reach, told);
        let broken = &mut outcome.broken;
        if is_passed && !self.may_pass {
            broken.push("it got to the client".into());
        }
        if heard.contains(POISON) {
            broken.push("bytes that belong to no answer got to the client".into());
        }
        if self.name == "answer-ordinary" && !heard.ends_with("fine") {
            broken.push(format!(
                "an ordinary answer did not get to the client: {heard:?}"
            ));
        }
        broken.extend(target.broken(is_served(target.plain))?);
        Ok(outcome)
    }
}
