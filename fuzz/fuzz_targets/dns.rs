//! Questions to the name server of a container: what is answered is a message, and nothing but a question is answered.
#![no_main]

use knarr_network::try_question;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for stream in [false, true] {
        let Some(answer) = try_question(bytes, stream) else { continue };
        assert!(answer.len() >= 12 && answer[..2] == bytes[..2]);
        assert!(answer[2] & 0x80 != 0, "an answer is marked as one");
        assert!(stream || answer.len() <= 65_535);
        // Two that answer each other would never end.
        assert_eq!(try_question(&answer, stream), None);
    }
});
