//! Suggests the known word that a misspelt word is most similar to.

/// The one of `words` that is most similar to the misspelt `word`; none when no word is similar enough.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = 1 + word.chars().count() / 4;
    words
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, _)| *distance <= close)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_returns_only_a_similar_word() {
        let words = ["computation", "desktop", "securevm", "td"];
        for (word, meant) in [
            ("desktpo", Some("desktop")),
            ("secure-vm", Some("securevm")),
            ("computatoin", Some("computation")),
            ("tdx", Some("td")),
            ("", None),
            ("server", None),
        ] {
            assert_eq!(nearest(word, words), meant, "{word}");
        }
    }
}
