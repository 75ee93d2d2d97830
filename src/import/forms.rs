//! The forms that a product's line may have, and the one that the API takes.

use std::collections::BTreeMap;

use domain::{Currency, Money, Sku};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A product as `POST /v1/products` takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    pub sku: Sku,
    pub title: String,
    #[serde(default)]
    pub description: String,
    pub brand: String,
    pub category: Vec<String>,
    pub price: Money,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub images: Vec<String>,
    #[serde(default)]
    pub gtins: Vec<String>,
}

/// The project's own form: the product, and its opening stock if it is known.
#[derive(Debug, Deserialize)]
struct Own {
    stock: Option<u32>,
    #[serde(flatten)]
    product: Map<String, Value>,
}

/// Icecat's form as the Chorus project prepares it; the fields that no product lacks.
#[derive(Debug, Deserialize)]
struct Icecat {
    id: String,
    title: String,
    supplier: String,
    price: i64,
    #[serde(default)]
    short_description: String,
    #[serde(default)]
    ean: Vec<String>,
    img_high: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Reads a line in whichever form it has: the product, and its own stock figure if it has one.
pub fn parse(line: &[u8], currency: Currency) -> Result<(Product, Option<u32>), String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(fields) = &value else { return Err("not a JSON object".to_owned()) };
    match (fields.contains_key("sku"), fields.contains_key("id")) {
        (true, _) => own(value),
        (false, true) => icecat(value, currency).map(|product| (product, None)),
        (false, false) => Err("neither `sku` (the project's own form) nor `id` (Icecat's)".to_owned()),
    }
}

fn own(value: Value) -> Result<(Product, Option<u32>), String> {
    let Own { stock, product } = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let product = serde_json::from_value(Value::Object(product)).map_err(|error| error.to_string())?;
    Ok((product, stock))
}

fn icecat(mut value: Value, currency: Currency) -> Result<Product, String> {
    mend(&mut value);
    let item: Icecat = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let mut attributes: BTreeMap<String, String> = item
        .more
        .iter()
        .filter_map(|(name, value)| Some((attribute_name(name)?, attribute_value(value)?)))
        .collect();
    let (gtins, other_codes): (Vec<_>, Vec<_>) = item.ean.into_iter().partition(|code| is_gtin(code));
    if !other_codes.is_empty() {
        // Not a GTIN, so it can't be one here, but it isn't lost.
        attributes.insert("EAN as given".to_owned(), other_codes.join(", "));
    }
    let sku = sku(&item.id);
    if sku.as_str() != item.id {
        attributes.insert("Original id".to_owned(), item.id.clone());
    }
    let text =
        |name: &str| item.more.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let category = text("attr_t_product_type").or(text("attr_t_type")).unwrap_or("Uncategorised");
    Ok(Product {
        sku,
        title: item.title,
        description: item.short_description,
        brand: item.supplier,
        // `>` separates the levels of a category.
        category: vec![category.trim().replace('>', "/")],
        price: Money::new(item.price, currency),
        attributes,
        images: item.img_high.into_iter().collect(),
        gtins,
    })
}

/// Some of the file's texts came from Windows-1252 unconverted, so that what was a dash is a control
/// character. They become what they were, as HTML's parsers do it too (HTML, 13.2.5.80).
fn mend(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(is_c1) => *text = text.chars().map(windows_1252).collect(),
        Value::Array(items) => items.iter_mut().for_each(mend),
        Value::Object(fields) => fields.values_mut().for_each(mend),
        _ => {}
    }
}

fn is_c1(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9F}')
}

fn windows_1252(c: char) -> char {
    const FROM_80: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8D}Ž\u{8F}\u{90}‘’“”•–—˜™š›œ\u{9D}žŸ";
    match c {
        c if is_c1(c) => FROM_80.chars().nth(c as usize - 0x80).unwrap_or(c),
        c => c,
    }
}

/// `attr_n_package_weight` → `Package weight`
fn attribute_name(field: &str) -> Option<String> {
    let name = ["attr_t_", "attr_n_", "attr_b_"].iter().find_map(|prefix| field.strip_prefix(prefix))?;
    let words = name.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let mut letters = words.chars();
    let first = letters.next()?;
    Some(first.to_uppercase().chain(letters).take(100).collect())
}

fn attribute_value(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(if *yes { "Yes" } else { "No" }.to_owned()),
        // 175.0 is how the file writes 175.
        Value::Number(number) => Some(number.to_string().trim_end_matches(".0").to_owned()),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// The id itself where it has a SKU's form; else its allowed characters, and a hash of the whole,
/// so that different ids stay different.
fn sku(id: &str) -> Sku {
    id.parse().unwrap_or_else(|_| {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let hash = domain::commit::Hash::of(id.as_bytes()).to_string();
        let mapped: String = id.chars().map(allowed).take(Sku::LENGTH_MAX - 13).collect();
        let mapped = format!("{mapped}-{}", &hash[..12]);
        mapped.parse().unwrap_or_else(|_| unreachable!("{mapped} has a SKU's form"))
    })
}

fn is_gtin(code: &str) -> bool {
    domain::product::is_gtin(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn euro() -> Currency {
        "EUR".parse().unwrap()
    }

    #[test]
    fn the_own_form_is_taken_as_it_is() {
        let line = br#"{"sku":"MUG","title":"Mug","brand":"B","category":["Home"],"price":{"amount":5,"currency":"GBP"},"stock":7}"#;
        let (product, stock) = parse(line, euro()).unwrap();
        assert_eq!((product.sku.as_str(), product.price.currency.code(), stock), ("MUG", "GBP", Some(7)));
    }

    #[test]
    fn icecat_is_mapped() {
        let line = r#"{"id":"13 99","title":"HP 80","supplier":"HP","price":12595,"ean":["0882780756328","1"],
            "img_high":"http://example.com/a.jpg","img_low":"http://example.com/b.jpg","name":"80",
            "attr_n_weight":190.0,"attr_b_rohs_compliance":true,"attr_t_storage_temperature__t_t_":"-40 - 60",
            "attr_t_type":"A > B"}"#;
        let (product, stock) = parse(line.as_bytes(), euro()).unwrap();
        assert_eq!(stock, None);
        assert!(product.sku.as_str().starts_with("13-99-"), "{}", product.sku);
        assert_eq!(product.category, ["A / B"]);
        assert_eq!(product.price.to_string(), "125.95 EUR");
        assert_eq!(product.gtins, ["0882780756328"]);
        let attributes: Vec<_> =
            product.attributes.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            attributes,
            [
                "EAN as given: 1",
                "Original id: 13 99",
                "Rohs compliance: Yes",
                "Storage temperature t t: -40 - 60",
                "Type: A > B",
                "Weight: 190",
            ]
        );
    }

    #[test]
    fn unconverted_characters_become_what_they_were() {
        let line =
            "{\"id\":\"1\",\"title\":\"A \u{97} B\u{99} \u{80}5\u{9F}\",\"supplier\":\"É\",\"price\":1}";
        let (product, _) = parse(line.as_bytes(), euro()).unwrap();
        assert_eq!((product.title.as_str(), product.brand.as_str()), ("A — B™ €5Ÿ", "É"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            ("", "not JSON"),
            ("[]", "not a JSON object"),
            ("{}", "neither"),
            (r#"{"id":"1"}"#, "missing field `title`"),
            (r#"{"sku":"a b"}"#, "SKU"),
            (r#"{"sku":"A","stock":-1}"#, "-1"),
        ] {
            let error = parse(line.as_bytes(), euro()).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
