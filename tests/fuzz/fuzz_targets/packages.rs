#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tierway_fuzz::run("packages", bytes);
});
