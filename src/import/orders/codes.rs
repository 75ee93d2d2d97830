//! What the file's codes are: goods or not, and the SKU of each.
//!
//! | code                                   | what it is                                   | goods |
//! |----------------------------------------|----------------------------------------------|-------|
//! | five digits, and what may follow them  | an article: `85123A`, `22423`                | yes   |
//! | DCGS…                                  | an article of the gift shop: `DCGSSGIRL`     | yes   |
//! | POST, DOT, C2                          | postage and carriage                         | no    |
//! | M, m, D                                | entered by hand, a discount                  | no    |
//! | S, PADS, gift_0001_…                   | samples, cushion pads, vouchers              | no    |
//! | BANK CHARGES, AMAZONFEE, CRUK, B       | fees, commission, bad debt                   | no    |
//! | any other                              | unknown                                      | no    |
//!
//! What is not goods is a line of an order, and neither a product nor in stock.

use std::collections::{BTreeMap, HashMap};

use domain::Sku;
use domain::commit::Hash;

use super::rows::{Sheet, Text};

/// Hexadecimal digits that tell two codes apart whose SKUs would be the same.
const MARK_CHARS: usize = 8;

pub fn is_goods(code: &str) -> bool {
    let digits = code.bytes().take(5).filter(u8::is_ascii_digit).count();
    digits == 5 || code.starts_with("DCGS")
}

/// The SKU of every code in the file. A code that is a SKU stays as it is; in others, what a SKU can't
/// have becomes `-`. Should that be another's SKU, a hash of the code follows.
pub fn skus(sheet: &Sheet) -> HashMap<Text, Sku> {
    let mut codes: BTreeMap<&str, Text> = BTreeMap::new();
    for row in &sheet.rows {
        codes.entry(sheet.text(row.code)).or_insert(row.code);
    }
    let mut wanted: HashMap<String, usize> = HashMap::new();
    for code in codes.keys() {
        *wanted.entry(mapped(code)).or_default() += 1;
    }
    let sku = |code: &str| {
        let form = mapped(code);
        let unique = form == code || wanted.get(&form) == Some(&1);
        if unique { form } else { marked(&form, code) }
    };
    let parse = |(code, text): (&str, Text)| Some((text, sku(code).parse().ok()?));
    codes.into_iter().filter_map(parse).collect()
}

fn mapped(code: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    code.chars().map(|c| if allowed(c) { c } else { '-' }).collect()
}

fn marked(form: &str, code: &str) -> String {
    let mark: String = Hash::of(code.as_bytes()).to_string().chars().take(MARK_CHARS).collect();
    let room = Sku::LENGTH_MAX - MARK_CHARS - 1;
    format!("{}-{mark}", &form[..form.len().min(room)])
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sheet;
    use super::*;

    #[test]
    fn goods_are_told_from_what_is_none() {
        for code in ["85123A", "22423", "15056bl", "DCGSSGIRL", "DCGS0066P"] {
            assert!(is_goods(code), "{code}");
        }
        let others = [
            "POST",
            "DOT",
            "M",
            "m",
            "D",
            "C2",
            "S",
            "BANK CHARGES",
            "AMAZONFEE",
            "CRUK",
            "PADS",
            "B",
            "gift_0001_20",
            "1234",
            "A12345",
            "",
        ];
        for code in others {
            assert!(!is_goods(code), "{code}");
        }
    }

    #[test]
    fn every_code_has_a_sku_of_its_own() {
        let (long, like_it) = ("9 ".repeat(31), "9/".repeat(31));
        let codes =
            ["85123A", "85123a", "BANK CHARGES", "12345 A", "12345-A", "12345/A", "ß", long.trim(), &like_it];
        let rows: String =
            codes.iter().map(|code| format!("1,{code},x,1,2010-12-01 08:26:00,1,,UK\n")).collect();
        let sheet = sheet(&rows);
        let skus = skus(&sheet);
        let of = |code: &str| {
            let row = sheet.rows.iter().find(|row| sheet.text(row.code) == code).unwrap();
            skus[&row.code].to_string()
        };
        for (code, sku) in [
            ("85123A", "85123A"),
            ("85123a", "85123a"),
            ("BANK CHARGES", "BANK-CHARGES"),
            ("12345-A", "12345-A"),
            ("ß", "-"),
        ] {
            assert_eq!(of(code), sku);
        }
        assert!(of("12345 A").starts_with("12345-A-") && of("12345/A").starts_with("12345-A-"));
        let distinct: std::collections::BTreeSet<_> = skus.values().collect();
        assert_eq!(distinct.len(), codes.len());
    }
}
