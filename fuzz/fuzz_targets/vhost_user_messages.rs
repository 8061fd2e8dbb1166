#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::vhost_user_messages(data));
