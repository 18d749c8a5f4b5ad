//! What a client of `GET /trace` wants: the query of the request.

use std::str::FromStr;

use gateway_common::{decide::Verdict, event::Hook};

use nodegate_observe::{RecordFilter, StatusFilter};
use nodegate_programming::filter::Filter;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What to trace, and how to write it.
///
/// | parameter | of | value |
/// |---|---|---|
/// | `output` | all | `text` or `json` |
/// | `joinable` | all | `true`: every line is a [`Line`](super::trace::Line) |
/// | `from`, `to` | all | see [`Filter`] |
/// | `service`, `verdict`, `hook`, `protocol` | the kernel's decisions | see [`Filter`]; several with commas |
/// | `host`, `status` | requests | see [`RecordFilter`]; several statuses with commas |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How lines are written.
    pub format: Format,
    /// Whether lines say what joins them.
    pub joinable: bool,
    /// Which decisions of the kernel.
    pub kernel: Filter,
    /// Which records of the proxy.
    pub records: RecordFilter,
}

/// A text that is none of the names of something.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is no {what} (fix: one of {})", names.join(", "))]
pub struct NameError {
    text: String,
    what: &'static str,
    names: Vec<&'static str>,
}

/// What is wrong with the value of a parameter.
type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// A parameter of a query that is not understood.
#[derive(Debug, thiserror::Error)]
#[error("{parameter}: {source}")]
pub struct QueryError {
    parameter: String,
    source: Unreadable,
}

const VERDICTS: [Verdict; 4] = [
    Verdict::Pass,
    Verdict::Forward,
    Verdict::Reject,
    Verdict::Drop,
];

/// Reads a verdict by its name.
///
/// # Errors
///
/// If no verdict has that name; the message lists the names.
pub fn verdict(text: &str) -> Result<Verdict, NameError> {
    named(text, "verdict", VERDICTS, Verdict::name)
}

/// Reads a hook by its name.
///
/// # Errors
///
/// If no hook has that name; the message lists the names.
pub fn hook(text: &str) -> Result<Hook, NameError> {
    let hooks = (1..).map_while(Hook::from_number);
    // No decision is made there.
    let hooks = hooks.filter(|hook| *hook != Hook::Connected);
    named(text, "hook", hooks, Hook::name)
}

fn named<T: Copy>(
    text: &str,
    what: &'static str,
    all: impl IntoIterator<Item = T>,
    name: impl Fn(T) -> &'static str,
) -> Result<T, NameError> {
    let mut names = Vec::new();
    for one in all {
        if name(one) == text {
            return Ok(one);
        }
        names.push(name(one));
    }
    Err(NameError {
        text: text.to_owned(),
        what,
        names,
    })
}

impl Wanted {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// Says which parameter is wrong, and what would be right.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            wanted.set(&name, &value).map_err(|source| QueryError {
                parameter: name.into_owned(),
                source,
            })?;
        }
        Ok(wanted)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Unreadable> {
        let Self { kernel, .. } = self;
        match name {
            "output" => {
                self.format = match value {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    _ => return Err(format!("`{value}` is no output (fix: text or json)").into()),
                }
            }
            "joinable" => self.joinable = parse(value)?,
            "from" => kernel.from = Some(parse(value)?),
            "to" => kernel.to = Some(parse(value)?),
            "service" => kernel.service = Some(parse(value)?),
            "verdict" => kernel.verdicts = list(value, verdict)?,
            "hook" => kernel.hooks = list(value, hook)?,
            "protocol" => kernel.protocol = Some(parse(value)?),
            "host" => self.records.host = Some(value.to_owned()),
            "status" => self.records.statuses = list(value, parse::<StatusFilter>)?,
            _ => return Err("there is no such parameter".into()),
        }
        Ok(())
    }

    /// The query that [`Self::parse`] makes the same of.
    pub fn query(&self) -> String {
        let Self {
            format,
            joinable,
            kernel,
            records,
        } = self;
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                query.append_pair(name, &value);
            }
        };
        put("output", (*format == Format::Json).then(|| "json".into()));
        put("joinable", joinable.then(|| "true".into()));
        put("from", kernel.from.as_ref().map(ToString::to_string));
        put("to", kernel.to.as_ref().map(ToString::to_string));
        put("service", kernel.service.as_ref().map(ToString::to_string));
        put(
            "verdict",
            Some(join(kernel.verdicts.iter().map(|v| v.name()))),
        );
        put("hook", Some(join(kernel.hooks.iter().map(|h| h.name()))));
        put(
            "protocol",
            kernel.protocol.map(|p| p.lowercase().to_owned()),
        );
        put("host", records.host.clone());
        put("status", Some(join(&records.statuses)));
        query.finish()
    }

    /// Whether it is about decisions of the kernel: then requests count only with theirs.
    pub fn asks_the_kernel(&self) -> bool {
        self.kernel != Filter::default()
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, Unreadable>
where
    T::Err: Into<Unreadable>,
{
    text.parse().map_err(Into::into)
}

fn list<T, E>(text: &str, one: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, Unreadable>
where
    E: Into<Unreadable>,
{
    text.split(',')
        .map(|text| one(text).map_err(Into::into))
        .collect()
}

fn join(texts: impl IntoIterator<Item = impl ToString>) -> String {
    let texts: Vec<_> = texts.into_iter().map(|text| text.to_string()).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::service::Protocol;

    #[test]
    fn a_query_says_all_of_it() {
        let wanted = Wanted {
            format: Format::Json,
            joinable: true,
            kernel: Filter {
                from: Some("10.10.0.0/16".parse().unwrap()),
                to: Some("[fd00::1]:80".parse().unwrap()),
                service: Some("default/web:http".parse().unwrap()),
                verdicts: vec![Verdict::Reject, Verdict::Drop],
                hooks: vec![Hook::Connect4],
                protocol: Some(Protocol::Udp),
            },
            records: RecordFilter {
                host: Some("a&b".into()),
                statuses: vec![StatusFilter::Exact(404), StatusFilter::Class(5)],
                ..RecordFilter::default()
            },
        };
        assert_eq!(Wanted::parse(&wanted.query()).unwrap(), wanted);
        assert_eq!(Wanted::parse("").unwrap(), Wanted::default());
        assert_eq!(Wanted::default().query(), "");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, message) in [
            (
                "verdict=dropped",
                "verdict: `dropped` is no verdict (fix: one of pass, forward, reject, drop)",
            ),
            (
                "protocol=icmp",
                "protocol: `icmp` is no protocol (fix: one of tcp, udp, sctp)",
            ),
            (
                "status=teapot",
                "status: `teapot` is no status (fix: 404, or 4xx)",
            ),
            ("fro=node", "fro: there is no such parameter"),
            (
                "output=yaml",
                "output: `yaml` is no output (fix: text or json)",
            ),
        ] {
            assert_eq!(Wanted::parse(query).unwrap_err().to_string(), message);
        }
        let error = Wanted::parse("hook=connected").unwrap_err().to_string();
        assert!(error.contains("connect4, ingress"), "{error}");
    }
}
