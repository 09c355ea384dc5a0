//! `--format`: the part of Go's templates that people use on these commands.
//!
//! Fields, `json`, `len`, `index`, `println`, string constants, `range`, `if`/`else`, `end`. Field names match
//! without regard to case, because templates are written with Go's names and the data has JSON's.

use serde_json::Value;

/// A template that was understood.
#[derive(Debug)]
pub struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Expression),
    Range(Expression, Vec<Node>, Vec<Node>),
    If(Expression, Vec<Node>, Vec<Node>),
}

#[derive(Debug)]
enum Expression {
    Path(Vec<String>),
    Root(Vec<String>),
    Constant(Value),
    Call(Function, Vec<Expression>),
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Json,
    Len,
    Index,
    Println,
}

/// Why a template cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not understood.
    #[error("invalid --format: {0}")]
    Syntax(String),
    /// The data has no such thing.
    #[error("--format: {0}")]
    Data(String),
}

impl Template {
    /// Reads a template; `json` stands for `{{json .}}`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let mut parser = Parser { rest: text, trim_next: false };
        let (nodes, end) = parser.nodes()?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(TemplateError::Syntax(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// Applies it.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        render(&self.0, data, data, &mut out)?;
        Ok(out)
    }
}

struct Parser<'a> {
    rest: &'a str,
    trim_next: bool,
}

impl Parser<'_> {
    /// Nodes up to `else`, `end` or the end of the text, and which of these it was.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            let Some((text, after)) = self.rest.split_once("{{") else {
                self.text(&mut nodes, self.rest, false);
                self.rest = "";
                return Ok((nodes, None));
            };
            let (action, after_action) =
                after.split_once("}}").ok_or_else(|| TemplateError::Syntax("unclosed {{".into()))?;
            let (trim_before, action) = match action.strip_prefix("- ") {
                Some(action) => (true, action),
                None => (false, action),
            };
            self.text(&mut nodes, text, trim_before);
            let (trim_after, action) = match action.strip_suffix(" -") {
                Some(action) => (true, action),
                None => (false, action),
            };
            self.rest = after_action;
            self.trim_next = trim_after;
            let action = action.trim();
            let (word, argument) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some(word.to_owned()))),
                "range" | "if" => {
                    let condition = expression(argument)?;
                    let (then, mut end) = self.nodes()?;
                    let mut otherwise = Vec::new();
                    if end.as_deref() == Some("else") {
                        (otherwise, end) = self.nodes()?;
                    }
                    if end.as_deref() != Some("end") {
                        return Err(TemplateError::Syntax(format!("{{{{{word}}}}} without {{{{end}}}}")));
                    }
                    let node = if word == "if" { Node::If } else { Node::Range };
                    nodes.push(node(condition, then, otherwise));
                }
                _ if action.starts_with("/*") => {}
                _ => nodes.push(Node::Print(expression(action)?)),
            }
        }
    }

    fn text(&self, nodes: &mut Vec<Node>, text: &str, trim_end: bool) {
        let text = if self.trim_next { text.trim_start() } else { text };
        let text = if trim_end { text.trim_end() } else { text };
        if !text.is_empty() {
            nodes.push(Node::Text(text.to_owned()));
        }
    }
}

fn expression(text: &str) -> Result<Expression, TemplateError> {
    let mut pipeline = text.split('|').map(str::trim);
    let mut value = call(pipeline.next().unwrap_or_default(), None)?;
    for stage in pipeline {
        value = call(stage, Some(value))?;
    }
    Ok(value)
}

fn call(text: &str, piped: Option<Expression>) -> Result<Expression, TemplateError> {
    let words = words(text)?;
    let Some((first, arguments)) = words.split_first() else {
        return Err(TemplateError::Syntax("missing value for command".into()));
    };
    let function = match first.as_str() {
        "json" => Function::Json,
        "len" => Function::Len,
        "index" => Function::Index,
        "println" => Function::Println,
        _ if arguments.is_empty() && piped.is_none() => return operand(first),
        other => return Err(TemplateError::Syntax(format!("function {other:?} not defined"))),
    };
    let mut values: Vec<_> = arguments.iter().map(|word| operand(word)).collect::<Result<_, _>>()?;
    values.extend(piped);
    Ok(Expression::Call(function, values))
}

/// Splits at blanks outside of quotes.
fn words(text: &str) -> Result<Vec<String>, TemplateError> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with(['"', '`']) {
            let quote = &rest[..1];
            rest[1..]
                .find(quote)
                .map(|end| end + 2)
                .ok_or_else(|| TemplateError::Syntax("unterminated string".into()))?
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

fn operand(word: &str) -> Result<Expression, TemplateError> {
    let path = |text: &str| text.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if let Some(rest) = word.strip_prefix('$') {
        return Ok(Expression::Root(path(rest)));
    }
    if word.starts_with('.') {
        return Ok(Expression::Path(path(word)));
    }
    if let Some(raw) = word.strip_prefix('`') {
        return Ok(Expression::Constant(raw.trim_end_matches('`').into()));
    }
    serde_json::from_str(word)
        .map(Expression::Constant)
        .map_err(|_| TemplateError::Syntax(format!("function {word:?} not defined")))
}

fn render(nodes: &[Node], dot: &Value, root: &Value, out: &mut String) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(expression) => out.push_str(&go_text(&evaluate(expression, dot, root)?)),
            Node::If(condition, then, otherwise) => {
                let branch = if truthy(&evaluate(condition, dot, root)?) { then } else { otherwise };
                render(branch, dot, root, out)?;
            }
            Node::Range(list, body, otherwise) => {
                let items = match evaluate(list, dot, root)? {
                    Value::Array(items) => items,
                    Value::Object(members) => members.into_iter().map(|(_, value)| value).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(TemplateError::Data(format!("range can't iterate over {other}"))),
                };
                if items.is_empty() {
                    render(otherwise, dot, root, out)?;
                }
                for item in &items {
                    render(body, item, root, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(expression: &Expression, dot: &Value, root: &Value) -> Result<Value, TemplateError> {
    match expression {
        Expression::Constant(value) => Ok(value.clone()),
        Expression::Path(path) => lookup(dot, path),
        Expression::Root(path) => lookup(root, path),
        Expression::Call(function, arguments) => {
            let values: Vec<_> =
                arguments.iter().map(|argument| evaluate(argument, dot, root)).collect::<Result<_, _>>()?;
            apply(*function, &values)
        }
    }
}

fn apply(function: Function, values: &[Value]) -> Result<Value, TemplateError> {
    let arity = || TemplateError::Data("wrong number of args".into());
    Ok(match (function, values) {
        (Function::Json, [value]) => value.to_string().into(),
        (Function::Len, [Value::Array(items)]) => items.len().into(),
        (Function::Len, [Value::Object(members)]) => members.len().into(),
        (Function::Len, [Value::String(text)]) => text.len().into(),
        (Function::Len, [Value::Null]) => 0.into(),
        (Function::Index, [value, keys @ ..]) => {
            let mut value = value;
            for key in keys {
                let found = match key {
                    Value::String(key) => value.get(key),
                    key => value.get(usize::try_from(key.as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX)),
                };
                value = found.ok_or_else(|| TemplateError::Data(format!("index out of range: {key}")))?;
            }
            value.clone()
        }
        (Function::Println, values) => {
            let mut text = values.iter().map(go_text).collect::<Vec<_>>().join(" ");
            text.push('\n');
            text.into()
        }
        _ => return Err(arity()),
    })
}

fn lookup(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for name in path {
        let members = value.as_object().ok_or_else(|| TemplateError::Data(format!("can't evaluate field {name}")))?;
        let exact = members.get(name);
        let found = exact.or_else(|| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v));
        value = found.ok_or_else(|| TemplateError::Data(format!("can't evaluate field {name}")))?;
    }
    Ok(value.clone())
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// As Go's `%v` prints: lists in brackets, maps as `map[k:v]`.
fn go_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go_text).collect())),
        Value::Object(members) => {
            format!("map[{}]", joined(members.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_used_part_of_go_templates() {
        let data = serde_json::json!([{"id": "a", "inUse": true, "size": 3, "labels": {"k": "v"}}, {"id": "b", "inUse": false, "size": 0, "labels": {}}]);
        let run = |text: &str| Template::parse(text).and_then(|t| t.render(&data)).unwrap_or_else(|e| format!("! {e}"));
        for (text, expected) in [
            ("{{range .}}{{.ID}} {{end}}", "a b "),
            ("{{range .}}{{if .InUse}}+{{else}}-{{end}}{{end}}", "+-"),
            ("{{range . -}}\n  {{.Size}}\n{{- end}}", "30"),
            ("{{len .}} {{(index . 0)}}", "! invalid --format: function \"(index\" not defined"),
            ("{{range .}}{{println .ID .Labels}}{{end}}", "a map[k:v]\nb map[]\n"),
            ("{{index . 0 \"id\" | json}}", "\"a\""),
            ("{{json (.)}}", "! invalid --format: function \"(.)\" not defined"),
            ("{{range .}}{{$}}{{end", "! invalid --format: unclosed {{"),
            ("{{range .}}", "! invalid --format: {{range}} without {{end}}"),
            ("{{range .}}{{.Nope}}{{end}}", "! --format: can't evaluate field Nope"),
            ("x{{/* note */}}y{{\"\\t\"}}", "xy\t"),
        ] {
            assert_eq!(run(text), expected, "{text}");
        }
        assert!(run("json").starts_with("[{\"id\":\"a\""));
    }
}
