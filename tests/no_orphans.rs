//! Every test file is declared in a crate: cargo would silently leave one out.

use std::path::Path;

#[test]
fn every_test_file_is_declared() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifests: String = std::fs::read_dir(repository)
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).ok())
        .collect();
    let files = std::fs::read_dir(repository.join("tests")).unwrap().map(|e| e.unwrap().path());
    let tests: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect();
    assert!(tests.len() > 2, "looked in the wrong folder");
    for path in tests {
        let declaration = format!("path = \"../tests/{}\"", path.file_name().unwrap().display());
        assert!(manifests.contains(&declaration), "{} is declared nowhere", path.display());
    }
}
