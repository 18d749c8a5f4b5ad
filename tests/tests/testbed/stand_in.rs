//! What a testbed asks of nodegate, done by this program under other names.

use std::{env, ffi::OsString, fs, io, path::Path, process::ExitCode, thread, time::Duration};

/// `run` makes the admin socket and stays, `status --sync` says that everything is applied. As the name on
/// a host's PATH.
pub(crate) const STAND_IN: &str = "nodegate";
/// It ends at once, with a message.
pub(crate) const FAILING: &str = "nodegate-failing";

/// Stands in if this program was started by one of these names.
pub(crate) fn play() -> Option<ExitCode> {
    let mut words = env::args_os();
    let name = words.next()?;
    let arguments: Vec<_> = words.collect();
    match Path::new(&name).file_name()?.to_str()? {
        STAND_IN => Some(stand_in(&arguments).unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        })),
        FAILING => {
            eprintln!("no such map");
            Some(ExitCode::FAILURE)
        }
        _ => None,
    }
}

fn stand_in(arguments: &[OsString]) -> io::Result<ExitCode> {
    let admin = env::var_os("NODEGATE_ADMIN").unwrap_or_default();
    match arguments.first().and_then(|word| word.to_str()) {
        Some("run") => {
            println!("arguments: {}", arguments.join(" ".as_ref()).display());
            if let Some(pins) = env::var_os("NODEGATE_PIN_DIR") {
                fs::create_dir_all(pins)?;
            }
            fs::write(admin, "")?;
            thread::sleep(Duration::from_mins(10));
            Ok(ExitCode::SUCCESS)
        }
        Some("status") if Path::new(&admin).exists() => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}
