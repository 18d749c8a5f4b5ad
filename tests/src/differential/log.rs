//! What gateways write down about requests: the access log, field by field.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;

/// What a line begins with: other things are written to the same place.
const MARK: &str = "asked";
/// Between two fields.
const BETWEEN: char = '\t';

/// What of a field must be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// All of it.
    Value,
    /// The words between commas, in any order.
    Set,
    /// Whether it is there.
    Presence,
}

/// The fields of Istio's default format but for times and this gateway's own addresses, and how often endpoints were
/// asked.
const FIELDS: [(&str, &str, Compared); 19] = [
    ("method", "REQ(:METHOD)", Compared::Value),
    ("path", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", Compared::Value),
    ("protocol", "PROTOCOL", Compared::Value),
    ("status", "RESPONSE_CODE", Compared::Value),
    ("flags", "RESPONSE_FLAGS", Compared::Set),
    ("details", "RESPONSE_CODE_DETAILS", Compared::Value),
    (
        "termination",
        "CONNECTION_TERMINATION_DETAILS",
        Compared::Value,
    ),
    (
        "transport failure",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Compared::Value,
    ),
    ("bytes received", "BYTES_RECEIVED", Compared::Value),
    ("bytes sent", "BYTES_SENT", Compared::Value),
    (
        "service time",
        "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
        Compared::Presence,
    ),
    ("forwarded for", "REQ(X-FORWARDED-FOR)", Compared::Value),
    ("user agent", "REQ(USER-AGENT)", Compared::Value),
    ("request id", "REQ(X-REQUEST-ID)", Compared::Presence),
    ("authority", "REQ(:AUTHORITY)", Compared::Value),
    ("endpoint", "UPSTREAM_HOST", Compared::Value),
    ("cluster", "UPSTREAM_CLUSTER_RAW", Compared::Value),
    ("connection", "UPSTREAM_LOCAL_ADDRESS", Compared::Presence),
    ("route", "ROUTE_NAME", Compared::Value),
];

/// A line, as far as it is compared: its fields in their order, under their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(&'static str, String)>);

/// A log that is read as it is written.
#[derive(Debug)]
pub(super) struct Log(Mutex<Read>);

#[derive(Debug)]
struct Read {
    reader: BufReader<File>,
    /// What has come of a line that is not yet whole.
    begun: String,
    /// By the port that the client came from.
    lines: BTreeMap<u16, Line>,
}

/// How both gateways are to write lines.
pub(super) fn format() -> String {
    let fields = FIELDS.iter().map(|(_, operator, _)| *operator);
    let fields = ["DOWNSTREAM_REMOTE_PORT"].into_iter().chain(fields);
    let fields = fields.map(|operator| format!("{BETWEEN}%{operator}%"));
    format!("{MARK}{}\n", fields.collect::<String>())
}

impl Line {
    /// The fields by their names.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

impl Log {
    /// Reads from here on.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || -> std::io::Result<BufReader<File>> {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::End(0))?;
            Ok(BufReader::new(file))
        };
        Ok(Self(Mutex::new(Read {
            reader: open().with_context(|| format!("opening {}", path.display()))?,
            begun: String::new(),
            lines: BTreeMap::new(),
        })))
    }

    /// For how many requests there are lines by now. Of several over one connection the first counts.
    pub(super) fn read(&self) -> std::io::Result<usize> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Read {
            reader,
            begun,
            lines,
        } = &mut *read;
        while reader.read_line(begun)? > 0 {
            if !begun.ends_with('\n') {
                continue;
            }
            if let Some((port, line)) = parse(begun) {
                lines.entry(port).or_insert(line);
            }
            begun.clear();
        }
        Ok(lines.len())
    }

    /// The line of the first request that came from a port.
    pub(super) fn of(&self, port: u16) -> Option<Line> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.lines.get(&port).cloned()
    }

    /// Forgets what has been read: ports come again.
    pub(super) fn forget(&self) -> std::io::Result<()> {
        self.read()?;
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.lines.clear();
        Ok(())
    }
}

fn parse(text: &str) -> Option<(u16, Line)> {
    let mut values = text.trim_end_matches('\n').split(BETWEEN);
    values.next().filter(|mark| *mark == MARK)?;
    let port = values.next()?.parse().ok()?;
    let fields = FIELDS.iter().map(|(name, _, compared)| {
        let value = values.next()?;
        Some((*name, compared.of(value)))
    });
    Some((port, Line(fields.collect::<Option<_>>()?)))
}

impl Compared {
    fn of(self, value: &str) -> String {
        match self {
            Self::Value => value.to_owned(),
            Self::Set => {
                let mut words: Vec<_> = value.split(',').collect();
                words.sort_unstable();
                words.join(",")
            }
            Self::Presence if value == "-" => value.to_owned(),
            Self::Presence => "(there)".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    /// A line with these values, and in all other fields what is said of nothing.
    fn line(port: u16, values: &[(&str, &str)]) -> String {
        let fields = FIELDS.iter().map(|(name, ..)| {
            let value = values.iter().find(|(own, _)| own == name);
            format!("{BETWEEN}{}", value.map_or("-", |(_, value)| value))
        });
        format!("{MARK}{BETWEEN}{port}{}\n", fields.collect::<String>())
    }

    #[test]
    fn a_line_has_what_the_format_asks_for() {
        assert_eq!(format().matches(BETWEEN).count(), FIELDS.len() + 1);
        let text = line(
            4,
            &[("status", "503"), ("flags", "URX,UF"), ("request id", "7")],
        );
        let (port, line) = parse(&text).unwrap();
        assert_eq!(port, 4);
        let fields: BTreeMap<_, _> = line.fields().collect();
        assert_eq!(fields["status"], "503");
        assert_eq!(fields["flags"], "UF,URX");
        assert_eq!(fields["request id"], "(there)");
        assert_eq!(fields["service time"], "-");
        assert_eq!(parse("[2026] critical: something else\n"), None);
    }

    #[test]
    fn lines_come_in_pieces_and_the_first_of_a_port_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        fs::write(&path, line(1, &[])).unwrap();
        let log = Log::open(&path).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        let text = line(2, &[("status", "200")]) + &line(2, &[("status", "404")]);
        let (first, second) = text.split_at(9);
        file.write_all(first.as_bytes()).unwrap();
        assert_eq!(log.read().unwrap(), 0);
        file.write_all(second.as_bytes()).unwrap();
        assert_eq!(log.read().unwrap(), 1);
        assert!(
            log.of(2)
                .unwrap()
                .fields()
                .any(|field| field == ("status", "200"))
        );
        assert_eq!(log.of(1), None);
        log.forget().unwrap();
        assert_eq!(log.of(2), None);
    }
}
