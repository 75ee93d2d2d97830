//! Words: how texts are taken apart, and which known word is meant by one with a typing error.

use std::collections::BTreeSet;

use domain::product::Details;
use infra::read_models::Snapshot;

/// Words shorter than this are neither known nor mended: too many are near to them.
const MENDED_CHARS_MIN: usize = 3;

/// Longer words may have two typing errors.
const ONE_ERROR_CHARS_MAX: usize = 5;

/// Longer ones are no words, and not worth a comparison with all that are.
const KNOWN_CHARS_MAX: usize = 40;

/// The text with nothing but lower-case words and numbers in it. Texts and queries both go through
/// this, so that `Wi-Fi`, `Black/Silver` or `StarTech.com` are found by their parts, however
/// Postgres would read the characters in between.
pub(super) fn plain(text: &str, chars_max: usize) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().take(chars_max).peekable();
    while let Some(c) = rest.next() {
        let after = rest.peek().copied().unwrap_or(' ');
        match c {
            // An accent of its own belongs to the letter before.
            '\u{300}'..='\u{36F}' => continue,
            c if c.is_alphanumeric() => plain.extend(c.to_lowercase()),
            '.' if before.is_ascii_digit() && after.is_ascii_digit() => plain.push('.'),
            _ => plain.push(' '),
        }
        before = c;
    }
    plain
}

/// The different words of a product's texts from which typing errors are mended.
pub(super) fn known_words(details: &Details) -> BTreeSet<String> {
    let category = details.category.iter().map(String::as_str);
    let texts = [details.title.as_str(), &details.brand, &details.description].into_iter().chain(category);
    let mut words = BTreeSet::new();
    for text in texts {
        let plain = plain(text, usize::MAX);
        words.extend(plain.split_whitespace().filter(|word| is_mendable(word)).map(str::to_owned));
    }
    words
}

/// The known word that was probably meant: with the fewest errors, of several the most frequent.
pub(super) async fn nearest(word: &str, snapshot: &mut Snapshot) -> Result<Option<String>, sqlx::Error> {
    if !is_mendable(word) {
        return Ok(None);
    }
    let chars = word.chars().count();
    let errors_max = if chars <= ONE_ERROR_CHARS_MAX { 1 } else { 2 };
    // Two letters that changed places are two errors to Postgres, but one to whoever typed them.
    let known: Vec<(String, i64)> = sqlx::query_as(snapshot.sql(
        "select word, documents from {schema}.words
         where length(word) between $2 - 2 and $2 + 2
           and public.levenshtein_less_equal(word, $1, 2) <= 2",
    ))
    .bind(word)
    .bind(i32::try_from(chars).unwrap_or(i32::MAX))
    .fetch_all(snapshot.connection())
    .await?;
    let candidates = known.into_iter().map(|(known, documents)| (errors(word, &known), -documents, known));
    Ok(candidates.filter(|(errors, ..)| *errors <= errors_max).min().map(|(.., known)| known))
}

/// A code that nothing has is no typing error of another one.
fn is_mendable(word: &str) -> bool {
    let chars = word.chars().count();
    (MENDED_CHARS_MIN..=KNOWN_CHARS_MAX).contains(&chars) && word.chars().all(char::is_alphabetic)
}

/// Letters that were added, left out, mistaken, or swapped with the next (optimal string alignment).
fn errors(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let mistaken = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = mistaken.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_is_made_of_words_and_numbers() {
        let cases = [
            ("Wi-Fi 5 (802.11ac)", "wi fi 5 802.11ac"),
            ("Intel® Core™2, 15.6\".", "intel core 2 15.6"),
            ("StarTech.com DP/HDMI", "startech com dp hdmi"),
            ("CAFÉ cafe\u{301} ǅ", "café cafe ǆ"),
            ("\0 :*|&!'\\()<->", ""),
        ];
        for (text, expected) in cases {
            let words = plain(text, 100);
            let words: Vec<_> = words.split_whitespace().collect();
            assert_eq!(words.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn errors_are_counted_as_people_make_them() {
        for (typed, meant, expected) in [
            ("laptop", "laptop", 0),
            ("labtop", "laptop", 1),
            ("latpop", "laptop", 1),
            ("lptop", "laptop", 1),
            ("lapptop", "laptop", 1),
            ("ladtob", "laptop", 2),
            ("", "mug", 3),
        ] {
            assert_eq!(errors(typed, meant), expected, "{typed}");
        }
    }

    #[test]
    fn codes_are_not_mended() {
        assert!(
            is_mendable("laptop") && !is_mendable("rtx2060") && !is_mendable("ket 01") && !is_mendable("ab")
        );
    }
}
