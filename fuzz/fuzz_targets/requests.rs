#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nodegate_fuzz::requests::run(input));
