//! The file into which engines look for what went wrong.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::ui::Ui;

/// Appends a line, if there is such a file.
pub(super) fn append(path: Option<&Path>, format: &str, level: &str, text: &str, ui: &Ui) {
    let Some(path) = path else { return };
    let time = knarr_runtime::state::now();
    let line = if format == "json" {
        serde_json::json!({ "level": level, "msg": text, "time": time }).to_string()
    } else {
        format!("time=\"{time}\" level={level} msg={text:?}")
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        ui.error(&format!("cannot write {}: {error}", path.display()));
    }
}
