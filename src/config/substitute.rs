//! `${VAR}`, `${VAR:-default}` and `$${literal}` in texts. Pure: variables come from a closure.

use crate::config::javascript::trim;

/// What became of a text.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Substituted {
    /// `None`: a variable is missing, so the whole value is, and its key disappears.
    pub text: Option<String>,
    /// The variables that were asked for, in order.
    pub variables: Vec<String>,
}

/// Replaces every `${…}` of `text`. Results are not looked at again.
pub fn substitute(text: &str, variable: impl Fn(&str) -> Option<String>) -> Substituted {
    let mut out = Some(String::with_capacity(text.len()));
    let mut variables = Vec::new();
    let mut rest = text;
    while let Some((before, inside, escaped, after)) = next_braces(rest) {
        let value =
            if escaped { Some(format!("${{{inside}}}")) } else { expand(inside, &variable, &mut variables) };
        out = out.zip(value).map(|(out, value)| out + before + &value);
        rest = after;
    }
    Substituted { text: out.map(|out| out + rest), variables }
}

/// What stands before the first `${…}`, inside of it and after it, and whether a second `$` disarms it.
fn next_braces(text: &str) -> Option<(&str, &str, bool, &str)> {
    let mut from = 0;
    loop {
        let open = from + text.get(from..)?.find("${")?;
        let body = text.get(open + 2..)?;
        let end = body.find(['{', '}'])?;
        if body.get(end..)?.starts_with('}') {
            let escaped = text.get(..open)?.ends_with('$');
            let before = text.get(..open - usize::from(escaped))?;
            return Some((before, body.get(..end)?, escaped, body.get(end + 1..)?));
        }
        // `${A${B}`: the inner one may still be whole.
        from = open + 2;
    }
}

/// An empty value counts as missing only where there is a default.
fn expand(
    inside: &str,
    variable: impl Fn(&str) -> Option<String>,
    variables: &mut Vec<String>,
) -> Option<String> {
    let Some((name, default)) = inside.split_once(":-") else {
        variables.push(trim(inside).to_owned());
        return variable(trim(inside));
    };
    variables.push(trim(name).to_owned());
    let value = variable(trim(name)).filter(|value| !value.is_empty());
    value.or_else(|| Some(trim(default).to_owned()).filter(|default| !default.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitution_is_that_of_backstage() {
        let variable = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${A}".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain $HOME $1", Some("plain $HOME $1")),
            ("${A}", Some("a")),
            ("x-${ A }-${A}", Some("x-a-a")),
            ("${NONE}", None),
            ("x${NONE}y", None),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-d}", Some("d")),
            ("${NONE:- d }", Some("d")),
            ("${NONE:-a:-b}", Some("a:-b")),
            ("${NONE:-}", None),
            ("$${A}", Some("${A}")),
            ("$$${A}", Some("$${A}")),
            ("$${NONE} ${A}", Some("${NONE} a")),
            ("$$A", Some("$$A")),
            ("${TRICKY}", Some("${A}")),
            ("${NONE:-${A}}", Some("${NONE:-a}")),
            ("${A", Some("${A")),
            ("${A{${A}", Some("${A{a")),
            ("é${A}ü", Some("éaü")),
        ] {
            assert_eq!(substitute(text, variable).text.as_deref(), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_without_braces_is_left_alone(text in "[^{}]*") {
            proptest::prop_assert_eq!(substitute(&text, |_| None).text, Some(text));
        }
    }
}
