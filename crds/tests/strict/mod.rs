//! Reading without passing over anything: the types of Kubernetes ignore fields that they do not
//! know, so that what was read is written again and compared.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads it as a `T`.
///
/// # Errors
/// Why it is none, or each field that a `T` lacks or turns into something else.
pub(crate) fn read<T: DeserializeOwned + Serialize>(given: &Value) -> Result<T, Vec<String>> {
    let read: T = serde_json::from_value(given.clone()).map_err(|error| vec![error.to_string()])?;
    let kept = serde_json::to_value(&read).map_err(|error| vec![error.to_string()])?;
    let mut found = Vec::new();
    compare("", given, &kept, &mut found);
    if found.is_empty() {
        Ok(read)
    } else {
        Err(found)
    }
}

fn compare(path: &str, given: &Value, kept: &Value, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                let path = format!("{path}.{name}");
                match kept.get(name) {
                    Some(kept) => compare(&path, value, kept, found),
                    None => found.push(format!("{path} is no field")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (at, (given, kept)) in given.iter().zip(kept).enumerate() {
                compare(&format!("{path}[{at}]"), given, kept, found);
            }
        }
        (given, kept) if given == kept => {}
        (given, kept) => found.push(format!("{path}: {given} became {kept}")),
    }
}
