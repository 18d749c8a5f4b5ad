//! `nodegate check`: what is wrong with manifests, before they are applied.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use nodegate_resources::admission::Store;
use nodegate_source::directory::Directory;
use nodegate_values::diagnostic::{self, Diagnostic, JSON_SCHEMA, Severity};
use serde::Serialize;

use super::{Output, Plural, layout::WidthArgs};

const EXAMPLES: &str = "\
Examples:
  nodegate check web.yaml            one file
  nodegate check manifests/          all of *.yaml, *.yml, *.json there
  nodegate check -o json manifests/  for programs

Exit status: 0 without errors (warnings are none), 1 with errors, 2 if a path
cannot be read.";

/// Check manifests: what nodegate would refuse, ignore or serve otherwise than meant.
///
/// All paths are looked at together, as one cluster's objects.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// How to print: messages go to standard error, JSON to standard output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    width: WidthArgs,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Report {
    /// See [`JSON_SCHEMA`].
    schema: u32,
    diagnostics: Vec<Diagnostic>,
    #[serde(skip)]
    files: usize,
    #[serde(skip)]
    objects: usize,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = match check(args.paths) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    match args.output {
        Output::Json => {
            let mut out = io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
        Output::Text => {
            let err = io::stderr();
            let colour = err.is_terminal();
            let layout = args.width.for_lines(&err);
            let mut err = err.lock();
            if report.files == 0 {
                let found = "no file there ends in .yaml, .yml or .json, so nothing was checked";
                writeln!(err, "warning: {found}")?;
            }
            for diagnostic in &report.diagnostics {
                let line = Line { diagnostic, colour }.to_string();
                writeln!(err, "{}", layout.fit(&line, 0))?;
            }
            writeln!(err, "{report}")?;
        }
    }
    let failed = diagnostic::has_errors(&report.diagnostics);
    Ok(ExitCode::from(u8::from(failed)))
}

fn check(paths: Vec<PathBuf>) -> Result<Report, nodegate_source::SourceError> {
    let mut directory = Directory::new(paths)?;
    let scan = directory.scan();
    let mut store = Store::default();
    let resources = store.admit(directory.manifests(), scan.diagnostics);
    let ours = super::run::labels(super::run::GATEWAY_LABELS).unwrap_or_default();
    let objects = directory
        .manifests()
        .map(|manifest| manifest.objects.len() + manifest.unreadable.len());
    Ok(Report {
        schema: JSON_SCHEMA,
        files: directory.manifests().count(),
        objects: objects.sum(),
        diagnostics: nodegate_compile::check(&resources, &ours),
    })
}

// === impl Report ===

/// `3 files, 12 objects: 1 error, 2 warnings`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |severity| {
            let of = |diagnostic: &&Diagnostic| diagnostic.severity == severity;
            self.diagnostics.iter().filter(of).count()
        };
        write!(
            f,
            "{}, {}: {}, {}",
            Plural(self.files, "file"),
            Plural(self.objects, "object"),
            Plural(count(Severity::Error), "error"),
            Plural(count(Severity::Warning), "warning"),
        )
    }
}

/// A message, its first word in colour.
struct Line<'d> {
    diagnostic: &'d Diagnostic,
    colour: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.diagnostic.to_string();
        let Some((severity, rest)) = text.split_once(':').filter(|_| self.colour) else {
            return f.write_str(&text);
        };
        // ECMA-48 SGR: bold red, bold yellow, bold cyan.
        let colour = match self.diagnostic.severity {
            Severity::Error => 31,
            Severity::Warning => 33,
            Severity::Info => 36,
        };
        write!(f, "\x1b[1;{colour}m{severity}\x1b[0m:{rest}")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const BAD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 70000\n    x: 1\n---\napiVersion: apps/v1\nkind: Deployment\n";
    const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80, name: http}]}\n";

    #[test]
    fn files_are_checked_together_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), BAD).unwrap();
        fs::write(directory.path().join("b.yaml"), GOOD).unwrap();
        let report = check(vec![directory.path().to_owned()]).unwrap();
        assert_eq!(report.to_string(), "2 files, 2 objects: 1 error, 1 warning");
        let place = directory.path().join("a.yaml").display().to_string();
        let lines: Vec<_> = report.diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                format!(
                    "error: {place}:6: Service default/a: spec.ports[0].port: 70000 is not a port (fix: 1 to 65535)"
                ),
                format!(
                    "warning: {place}:7: Service default/a: spec.ports[0].x: unknown field; it is ignored"
                ),
            ]
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["diagnostics"][0]["severity"], "error");
        assert_eq!(json["diagnostics"][0]["location"]["file"], place.as_str());
        assert_eq!(json["diagnostics"][0]["location"]["line"], 6);
        assert_eq!(json["diagnostics"][0]["object"]["kind"], "Service");
    }

    #[test]
    fn a_gateway_that_nobody_serves_is_told() {
        let told = |selector: &str| {
            let gateway = format!(
                "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  selector: {{{selector}}}\n  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: edge}}\nspec: {{selector: {{gw: edge}}, ports: [{{port: 80}}]}}\n"
            );
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("a.yaml");
            fs::write(&file, gateway).unwrap();
            let report = check(vec![file]).unwrap();
            let warnings = report.diagnostics.iter();
            let warnings = warnings.filter(|found| found.severity == Severity::Warning);
            warnings
                .map(|found| {
                    format!(
                        "{} ({})",
                        found.message,
                        found.fix.clone().unwrap_or_default()
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(told("istio: ingressgateway"), [""; 0]);
        assert_eq!(told("gw: edge"), [""; 0]);
        assert_eq!(
            told("istio: ingresgateway"),
            [
                "neither a Pod nor a Service's selector has istio=ingresgateway: nobody serves this Gateway (did you mean `istio: ingressgateway`?)"
            ]
        );
        assert_eq!(
            told("app: mine"),
            [
                "neither a Pod nor a Service's selector has app=mine: nobody serves this Gateway (the labels of the gateway's pods)"
            ]
        );
    }

    #[test]
    fn colour_is_only_for_the_severity() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            location: None,
            object: None,
            field: None,
            message: "x: y".into(),
            fix: None,
        };
        let line = |colour| {
            Line {
                diagnostic: &diagnostic,
                colour,
            }
            .to_string()
        };
        assert_eq!(line(false), "error: x: y");
        assert_eq!(line(true), "\x1b[1;31merror\x1b[0m: x: y");
    }

    #[test]
    fn exit_status_says_what_happened() {
        let run_on = |path: &Path| {
            let args = Args {
                paths: vec![path.to_owned()],
                output: Output::Text,
                width: WidthArgs::default(),
            };
            format!("{:?}", run(args).unwrap())
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        assert_eq!(run_on(&file), format!("{:?}", ExitCode::SUCCESS));
        fs::write(&file, BAD).unwrap();
        assert_eq!(run_on(&file), format!("{:?}", ExitCode::from(1)));
        assert_eq!(
            run_on(&directory.path().join("gone")),
            format!("{:?}", ExitCode::from(2))
        );
    }
}
