//! The part of Go's templates that ours keep to: lines of `{{- ... }}` that assign a variable or choose between
//! lines, with `ne`, `eq`, `index`, `default` and `printf "%t"`. Anything else fails the test.

use std::collections::BTreeMap;

/// What a template sees of a Pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether the cluster has native sidecars.
    pub(crate) native: bool,
}

/// `template` as the injector renders it.
pub(crate) fn render(template: &str, context: &Context) -> String {
    let mut variables = BTreeMap::new();
    // Of each open `if`: whether its lines count.
    let mut open: Vec<bool> = Vec::new();
    let mut lines = Vec::new();
    for line in template.lines() {
        let Some(action) = action(line) else {
            if open.iter().all(|counts| *counts) {
                lines.push(line);
            }
            continue;
        };
        let scope = Scope {
            context,
            variables: &variables,
        };
        match action {
            "else" => {
                let counts = open.last_mut().expect("an else without an if");
                *counts = !*counts;
            }
            "end" => {
                open.pop().expect("an end without an if");
            }
            action => match (action.strip_prefix("if "), action.split_once(" := ")) {
                (Some(condition), _) => open.push(scope.evaluate(condition) == "true"),
                (None, Some((variable, value))) => {
                    let value = scope.evaluate(value);
                    variables.insert(variable.to_owned(), value);
                }
                (None, None) => panic!("not in our part of Go's templates: {line}"),
            },
        }
    }
    assert!(open.is_empty(), "an if without an end");
    lines.join("\n")
}

/// What stands in the braces, if that is all that the line has.
fn action(line: &str) -> Option<&str> {
    let inner = line
        .trim()
        .strip_prefix("{{-")
        .and_then(|rest| rest.strip_suffix("}}"));
    assert!(
        inner.is_some() || !line.contains("{{"),
        "not in our part of Go's templates: {line}"
    );
    inner.map(str::trim)
}

struct Scope<'a> {
    context: &'a Context,
    variables: &'a BTreeMap<String, String>,
}

impl Scope<'_> {
    fn evaluate(&self, text: &str) -> String {
        let tokens = tokens(text);
        let mut tokens = tokens.iter().map(String::as_str);
        self.pipeline(&mut tokens)
    }

    /// Up to the end or a closing parenthesis; the result of each command is the last argument of the next.
    fn pipeline<'t>(&self, tokens: &mut impl Iterator<Item = &'t str>) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut result = None;
        loop {
            match tokens.next() {
                Some("(") => words.push(format!("`{}", self.pipeline(tokens))),
                Some("|") => {
                    result = Some(self.call(&words, result));
                    words.clear();
                }
                Some(")") | None => return self.call(&words, result),
                Some(word) => words.push(word.to_owned()),
            }
        }
    }

    fn call(&self, words: &[String], piped: Option<String>) -> String {
        let (name, arguments) = words.split_first().expect("a command");
        let mut arguments: Vec<String> = arguments.iter().map(|word| self.value(word)).collect();
        arguments.extend(piped);
        match (name.as_str(), &arguments[..]) {
            ("ne", [a, b]) => (a != b).to_string(),
            ("eq", [a, b]) => (a == b).to_string(),
            ("index", [map, key]) if map == ".ObjectMeta.Annotations" => self
                .context
                .annotations
                .get(key)
                .cloned()
                .unwrap_or_default(),
            ("default", [default, given]) if given.is_empty() => default.clone(),
            ("default", [_, given]) => given.clone(),
            ("printf", [format, value]) if format == "%t" => value.clone(),
            (_, []) => self.value(name),
            _ => panic!("not in our part of Go's templates: {words:?}"),
        }
    }

    fn value(&self, word: &str) -> String {
        if let Some(text) = word.strip_prefix(['`', '"']) {
            return text.to_owned();
        }
        match word {
            ".NativeSidecars" => self.context.native.to_string(),
            ".ObjectMeta.Annotations" => word.to_owned(),
            variable => match self.variables.get(variable) {
                Some(value) => value.clone(),
                None => panic!("not in our part of Go's templates: {word}"),
            },
        }
    }
}

/// Words, parentheses and pipes; texts keep their opening quote.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '|' => 1,
            '`' | '"' => {
                let end = rest[1..].find(first).expect("a closed text") + 1;
                tokens.push(rest[..end].to_owned());
                rest = rest[end + 1..].trim_start();
                continue;
            }
            _ => rest.find([' ', '(', ')', '|']).unwrap_or(rest.len()),
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

#[test]
fn annotations_go_before_the_cluster() {
    let template = "\
{{- $native := ne (index .ObjectMeta.Annotations `key` | default (printf \"%t\" .NativeSidecars)) \"false\" }}
a
{{- if $native }}
b
{{- else }}
c
{{- end }}
d";
    for (annotation, native, expected) in [
        (None, true, "a\nb\nd"),
        (None, false, "a\nc\nd"),
        (Some("true"), false, "a\nb\nd"),
        (Some("false"), true, "a\nc\nd"),
    ] {
        let annotations = annotation.map(|value| ("key".to_owned(), value.to_owned()));
        let annotations = annotations.into_iter().collect();
        let rendered = render(
            template,
            &Context {
                annotations,
                native,
            },
        );
        assert_eq!(rendered, expected, "{annotation:?} {native}");
    }
}

#[test]
#[should_panic(expected = "not in our part")]
fn what_it_does_not_know_it_refuses() {
    render(
        "{{- range .Spec.Containers }}\n{{- end }}",
        &Context::default(),
    );
}
