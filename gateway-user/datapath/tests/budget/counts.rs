//! What packets and calls make the programs do: counted by executing the programs, instruction by
//! instruction, with the maps as the daemon has written them.
//!
//! The kernel gets each packet as well, and must do the same with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context as _, ensure};
use aya::{
    maps::MapData,
    programs::{TestRun as _, TestRunOptions},
};
use aya_obj::{Object, generated::bpf_insn};
use nodegate_datapath::object::OBJECT;

use crate::{
    figures::Work,
    helpers::{Helpers, Table},
    interpreter::{Executed, Interpreter},
    memory::Memory,
    packets::Bytes,
    paths::{self, Fate, From, Path, Step},
    scene::Scene,
};

/// Maps that only the programs write: they begin empty, on each path.
const OF_THE_PROGRAMS: [&str; 5] = ["affinity", "conntrack", "counters", "fragments", "sockets"];

/// `struct __sk_buff` (include/uapi/linux/bpf.h): its size, and where it has what.
const SK_BUFF: usize = 192;
const LENGTH: u64 = 0;
const MARK: u64 = 8;
const PROTOCOL: u64 = 16;

/// The programs as they are in the object, ready to be executed.
pub(crate) struct Programs {
    code: HashMap<String, Vec<bpf_insn>>,
    /// The maps, in the order of the numbers by which the code names them.
    maps: Vec<(String, aya_obj::Map)>,
}

/// What was left when a program ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    result: u32,
    mark: u32,
    bytes: Bytes,
}

/// The programs on one path.
struct Run<'p> {
    programs: &'p Programs,
    memory: Memory,
    helpers: Helpers,
    node: u64,
}

impl Programs {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut object = Object::parse(OBJECT)?;
        let mut maps: Vec<_> = object.maps.clone().into_iter().collect();
        maps.sort_by(|(one, _), (other, _)| one.cmp(other));
        let text: HashSet<_> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let numbered = maps.iter().zip(0..);
        object.relocate_maps(
            numbered.map(|((name, map), number)| (name.as_str(), number, map)),
            &text,
        )?;
        object.relocate_calls(&text)?;
        let code = object.programs.iter().map(|(name, program)| {
            let function = object.functions.get(&program.function_key());
            let code = function.with_context(|| format!("{name} has no code"))?;
            Ok((name.clone(), code.instructions.clone()))
        });
        Ok(Self {
            code: code.collect::<anyhow::Result<_>>()?,
            maps,
        })
    }

    /// Their names, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.code.keys().cloned().collect();
        names.sort();
        names
    }

    /// What is counted on all paths.
    pub(crate) fn count(&self, scene: &mut Scene) -> anyhow::Result<BTreeMap<String, Work>> {
        let mut counted = BTreeMap::new();
        for path in paths::all() {
            let work = self.count_path(&path, scene);
            let work = work.with_context(|| format!("\"{}\"", path.name))?;
            counted.insert(path.name.to_owned(), work);
        }
        Ok(counted)
    }

    fn count_path(&self, path: &Path, scene: &mut Scene) -> anyhow::Result<Work> {
        scene.serve(&paths::services(false))?;
        let mut run = Run {
            programs: self,
            memory: Memory::default(),
            helpers: self.helpers(scene)?,
            node: scene.maps.settings()?.host_netns,
        };
        run.helpers.lay_out(&mut run.memory);
        for step in &path.before {
            run.step(step, scene)?;
        }
        run.helpers.calls.clear();
        let (fate, executed) = run.step(&path.counted, scene)?;
        ensure!(
            fate == path.fate,
            "it must be {:?} and is {fate:?}",
            path.fate
        );
        Ok(Work {
            instructions: executed.instructions,
            atomics: executed.atomics,
            calls: run.helpers.calls,
        })
    }

    fn helpers(&self, scene: &Scene) -> anyhow::Result<Helpers> {
        let mut helpers = Helpers::default();
        for (name, map) in &self.maps {
            let pin = scene.pins.join(name);
            let written = (pin.exists() && !OF_THE_PROGRAMS.contains(&name.as_str()))
                .then(|| MapData::from_pin(pin))
                .transpose()?;
            helpers.tables.push(Table::new(name, map, written));
        }
        Ok(helpers)
    }
}

impl Run<'_> {
    fn step(&mut self, step: &Step, scene: &mut Scene) -> anyhow::Result<(Fate, Executed)> {
        match step {
            Step::Packet(program, packet) => {
                let (outcome, executed) = self.packet(program, packet)?;
                let by_kernel = by_kernel(scene, program, packet)?;
                ensure!(
                    outcome == by_kernel,
                    "the interpreter makes {outcome:x?} of it, the kernel {by_kernel:x?}"
                );
                Ok((fate(packet, &outcome.bytes), executed))
            }
            Step::Call(program, context, from) => {
                let (after, executed) = self.call(program, context, *from)?;
                ensure!(executed.result == 1, "the call is refused");
                Ok((fate(context, &after), executed))
            }
            Step::Replaced => {
                scene.serve(&paths::services(true))?;
                self.helpers.forget();
                Ok((Fate::Untouched, Executed::default()))
            }
        }
    }

    fn packet(&mut self, program: &str, packet: &Bytes) -> anyhow::Result<(Outcome, Executed)> {
        self.helpers.context = self.memory.add(vec![0; SK_BUFF]);
        self.helpers.packet = self.memory.add(packet.clone());
        self.helpers.length = packet.len();
        let context = self.helpers.context;
        let ether_type = self.memory.number(self.helpers.packet + 12, 2)?;
        self.memory
            .set_number(context + LENGTH, 4, packet.len() as u64)?;
        self.memory.set_number(context + PROTOCOL, 4, ether_type)?;
        let executed = self.execute(program)?;
        let outcome = Outcome {
            result: executed.result,
            mark: self.memory.number(context + MARK, 4)? as u32,
            bytes: self
                .memory
                .bytes(self.helpers.packet, packet.len())?
                .to_vec(),
        };
        Ok((outcome, executed))
    }

    fn call(
        &mut self,
        program: &str,
        context: &Bytes,
        from: From,
    ) -> anyhow::Result<(Bytes, Executed)> {
        self.helpers.context = self.memory.add(context.clone());
        self.helpers.packet = 0;
        // Any other than the node's is a pod's.
        self.helpers.netns = match from {
            From::Node => self.node,
            From::Pod => self.node + 1,
        };
        let executed = self.execute(program)?;
        let after = self.memory.bytes(self.helpers.context, context.len())?;
        Ok((after.to_vec(), executed))
    }

    fn execute(&mut self, program: &str) -> anyhow::Result<Executed> {
        let code = self.programs.code.get(program);
        let code = code.with_context(|| format!("no program {program}"))?;
        Interpreter::new(code, &mut self.memory, &mut self.helpers)
            .run()
            .with_context(|| program.to_owned())
    }
}

fn fate(before: &Bytes, after: &Bytes) -> Fate {
    if before == after {
        Fate::Untouched
    } else {
        Fate::Translated
    }
}

/// What the kernel makes of a packet.
fn by_kernel(scene: &mut Scene, program: &str, packet: &Bytes) -> anyhow::Result<Outcome> {
    let (mut bytes, mut context) = (vec![0; packet.len()], [0; SK_BUFF]);
    let classifier = scene.classifier(program)?;
    if classifier.fd().is_err() {
        classifier.load()?;
    }
    let result = classifier.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut bytes),
        ctx_out: Some(&mut context),
        ..TestRunOptions::default()
    })?;
    let [.., a, b, c, d] = context[..12] else {
        unreachable!("12 bytes")
    };
    Ok(Outcome {
        result: result.return_value,
        mark: u32::from_ne_bytes([a, b, c, d]),
        bytes,
    })
}

/// Who compiled the programs, as their debug information says: `rustc version 1.95.0 (… 2026-04-14)`.
pub(crate) fn compiler() -> String {
    const MARK: &[u8] = b"rustc version ";
    let Some(at) = OBJECT.windows(MARK.len()).position(|part| part == MARK) else {
        return "unknown".to_owned();
    };
    let said = OBJECT[at..].split(|byte| matches!(byte, 0 | b'(' | b')'));
    let said = said.take(1).flatten().copied().collect();
    String::from_utf8(said)
        .unwrap_or_default()
        .trim()
        .replace(" version", "")
}
