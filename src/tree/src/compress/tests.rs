use std::io::Read;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let out = Shared::default();
    let mut writer = writer(compression, out.clone()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap();

    out.0.lock().unwrap().clone()
}

#[test]
fn every_compression_gives_back_what_went_in() {
    let mut noise = 1_u32;
    for size in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 77] {
        let bytes: Vec<u8> = (0..size)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if noise & 0x8000 == 0 { (noise >> 24) as u8 } else { b'a' }
            })
            .collect();
        for compression in [
            Compression::None,
            Compression::Gzip(6),
            Compression::Gzip(1),
            Compression::Xz(1),
            Compression::Zstd(3),
        ] {
            let packed = compress(compression, &bytes);
            assert_eq!(packed, compress(compression, &bytes), "{compression:?} twice");
            let mut back = Vec::new();
            match compression {
                Compression::None => back = packed,
                Compression::Gzip(_) => {
                    assert!(flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut back).is_ok());
                }
                Compression::Xz(_) => {
                    assert!(xz2::read::XzDecoder::new(packed.as_slice()).read_to_end(&mut back).is_ok());
                }
                Compression::Zstd(_) => back = zstd::decode_all(packed.as_slice()).unwrap(),
            }
            assert!(back == bytes, "{compression:?} of {size} bytes");
        }
    }
}
