//! `cargo xtask`: the project's chores.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nodegate_testbed::environment::Unmet;

mod attack;
mod bench;
mod binaries;
mod cluster;
mod conformance;
mod demo;
mod differential;
mod dist;
mod fresh;
mod fuzz;
mod image;
mod kernels;
mod phases;
mod results;
mod setup;
mod table;
mod test;
mod testbed;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this machine: eBPF toolchain, system tools, mounts.
    ///
    /// Says what it does, and nothing when all is there. Every command that needs something of it
    /// does that by itself.
    Setup,
    /// See the product work: a small cluster, a few requests, and every decision explained.
    Demo(demo::Demo),
    /// Run all tests, unit and end to end.
    #[command(after_help = test::EXAMPLES)]
    Test(test::Test),
    /// Attack nodegate, and Envoy beside it: requests, frames, handshakes, endpoints, manifests, packets.
    #[command(after_help = attack::EXAMPLES)]
    Attack(attack::Attack),
    /// Measure: what the proxy costs, beside HAProxy and Envoy; what packets cost.
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(bench::Bench),
    /// Build nodegate for nodes, with a profile of what it does there.
    #[command(after_help = dist::ABOUT)]
    Dist,
    /// Make the container image that deploy/ runs, without a container daemon.
    #[command(after_help = image::EXAMPLES)]
    Image(image::Image),
    /// Try all that on a bare Debian: whether set-up misses nothing, and how long it takes.
    #[command(after_help = fresh::EXAMPLES)]
    Fresh(fresh::Fresh),
    #[command(name = fresh::inside::SUBCOMMAND, hide = true)]
    FreshInside(fresh::inside::Inside),
    /// Feed parsers and the matcher with arbitrary input.
    #[command(after_help = fuzz::EXAMPLES)]
    Fuzz(fuzz::Fuzz),
    /// Try the redirector on other kernels, each in a machine of its own.
    ///
    /// Gets them as Debian packages, boots them with QEMU, and runs there: `nodegate preflight`, the packet
    /// tests, and end-to-end trials. The machines have no network. Without KVM it takes a while.
    #[command(after_help = kernels::EXAMPLES)]
    Kernels(kernels::Kernels),
    /// A cluster in network namespaces, on this machine, from plain manifests.
    #[command(subcommand, after_help = testbed::EXAMPLES)]
    Testbed(testbed::Command),
    /// A real Kubernetes in namespaces, on this machine.
    #[command(subcommand, after_help = cluster::EXAMPLES)]
    Cluster(cluster::Command),
    /// Run Kubernetes' own tests against nodegate, in a real Kubernetes.
    #[command(subcommand, after_help = conformance::EXAMPLES)]
    Conformance(conformance::Command),
    /// Compare nodegate with the real Istio, by objects and requests by chance.
    #[command(subcommand, after_help = differential::EXAMPLES)]
    Differential(differential::Command),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::all().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo::run(&demo),
        Command::Test(test) => test::run(test),
        Command::Attack(wanted) => attack::run(wanted),
        Command::Bench(bench) => bench::run(&bench),
        Command::Dist => dist::run().map(|()| ExitCode::SUCCESS),
        Command::Image(image) => image::run(&image),
        Command::Fresh(fresh) => fresh::run(&fresh),
        Command::FreshInside(inside) => fresh::inside::run(&inside),
        Command::Fuzz(fuzz) => fuzz::run(fuzz),
        Command::Kernels(kernels) => kernels::run(&kernels),
        Command::Testbed(command) => testbed::run(command),
        Command::Cluster(command) => cluster::run(command),
        Command::Conformance(command) => conformance::run(&command),
        Command::Differential(command) => differential::run(&command),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As for wrong usage: nothing was tried.
            let unmet = error.downcast_ref::<Unmet>().is_some();
            ExitCode::from(if unmet { 2 } else { 1 })
        }
    }
}
