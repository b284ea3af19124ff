//! The part of Go's templates that people use for output: `{{.Field}}`, `{{json .}}`, `{{json .Field}}`.

use anyhow::{Context, bail};
use serde_json::Value;

/// Fills a template from a JSON object.
pub(crate) fn render(template: &str, values: &Value) -> anyhow::Result<String> {
    let template = template.strip_prefix("table ").unwrap_or(template);
    let mut text = String::new();
    let mut rest = template.replace("\\t", "\t").replace("\\n", "\n");
    while let Some(start) = rest.find("{{") {
        text.push_str(&rest[..start]);
        let end = rest[start..].find("}}").context("the template has {{ without }}")? + start;
        text.push_str(&evaluate(rest[start + 2..end].trim().trim_matches('-').trim(), values)?);
        rest = rest[end + 2..].to_owned();
    }
    text.push_str(&rest);
    Ok(text)
}

fn evaluate(expression: &str, values: &Value) -> anyhow::Result<String> {
    if let Some(path) = expression.strip_prefix("json ") {
        return Ok(lookup(path.trim(), values)?.to_string());
    }
    Ok(match lookup(expression, values)? {
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".to_owned(),
        other => other.to_string(),
    })
}

fn lookup<'a>(path: &str, values: &'a Value) -> anyhow::Result<&'a Value> {
    let Some(path) = path.strip_prefix('.') else {
        bail!("the template has {path:?}: expected a field such as {{{{.Name}}}}, or json and a field");
    };
    let mut value = values;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let known = || value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>().join(", "));
        value = value.get(part).with_context(|| {
            format!("the template asks for .{part}, there is: {}", known().unwrap_or_default())
        })?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn fields_are_filled_in() {
        let values = json!({"Name": "a", "Size": 3, "Inner": {"X": "y"}});
        let filled = |template: &str| render(template, &values).map_err(|error| error.to_string());
        assert_eq!(filled("{{.Name}}\\t{{ .Size }}"), Ok("a\t3".to_owned()));
        assert_eq!(filled("{{json .Name}} {{.Inner.X}}"), Ok("\"a\" y".to_owned()));
        assert!(filled("{{.Nothing}}").unwrap_err().contains("Name, Size"));
        assert!(filled("{{.Name").is_err() && filled("{{len .Name}}").is_err());
    }
}
