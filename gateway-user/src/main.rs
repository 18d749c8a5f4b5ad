//! The `nodegate` command.

fn main() {}
