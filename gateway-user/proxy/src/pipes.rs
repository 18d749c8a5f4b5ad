//! Pipes through which bytes go from one socket to another without a copy in this process.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    fcntl::{OFlag, SpliceFFlags, splice},
    unistd::pipe2,
};

/// How many empty pipes are kept for the next ones who need one.
const KEPT: usize = 32;

/// What is asked for at once; a pipe takes what it has room for: 64 KiB by default (pipe(7)).
const AT_ONCE: usize = 1 << 20;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    held: usize,
}

/// Empty pipes of a worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes(RefCell<Vec<Pipe>>);

// === impl Pipes ===

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// Fails if the process may not have more descriptors.
    pub(crate) fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (output, input) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Pipe {
            output,
            input,
            held: 0,
        })
    }

    /// Takes a pipe back. What is in it is lost.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.is_empty() && kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

// === impl Pipe ===

impl Pipe {
    /// Moves what has come in at a socket into the pipe, which must be empty: else "would block" could be the
    /// pipe's word, too. 0: the other side has ended.
    pub(crate) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0);
        let moved = splice(from, None, &self.input, None, AT_ONCE, flags())?;
        self.held = moved;
        Ok(moved)
    }

    /// Moves on to a socket as much as that takes.
    pub(crate) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.output, None, to, None, self.held, flags())?;
        self.held -= moved;
        Ok(moved)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn bytes_go_through_and_the_pipe_is_used_again() {
        let pipes = Pipes::default();
        let ((mut client, from), (to, mut server)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        from.set_nonblocking(true).unwrap();
        let mut pipe = pipes.take().unwrap();
        let error = pipe.fill(&from).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&from).unwrap(), 5);
        assert!(!pipe.is_empty());
        assert_eq!(pipe.drain(&to).unwrap(), 5);
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        pipes.give_back(pipe);
        assert_eq!(pipes.0.borrow().len(), 1);
        let mut again = pipes.take().unwrap();
        assert!(pipes.0.borrow().is_empty());
        drop(client);
        assert_eq!(again.fill(&from).unwrap(), 0);
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_not_given_to_others() {
        let pipes = Pipes::default();
        let (mut client, from) = UnixStream::pair().unwrap();
        let mut pipe = pipes.take().unwrap();
        client.write_all(b"secret").unwrap();
        pipe.fill(&from).unwrap();
        pipes.give_back(pipe);
        assert!(pipes.0.borrow().is_empty());
    }
}
