//! `--cgroup-props`: which properties of which controllers to save.
//!
//! ```text
//! "c1":
//!  - "strategy": "merge"
//!  - "properties": ["a", "b"]
//! ```
//!
//! It is a piece of YAML, and read as loosely: spaces and lines may be anywhere between the
//! words, and quotes may be missing.

use dumper::CgroupProps;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut all = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            ':' | '[' | ']' | ',' => all.push(Token::Mark(c)),
            '-' if chars.peek().is_none_or(|next| next.is_whitespace() || *next == '"') => {
                all.push(Token::Mark('-'));
            }
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some(c) => word.push(c),
                        None => return Err("a quote is missing".into()),
                    }
                }
                all.push(Token::Word(word));
            }
            c => {
                let mut word = String::from(c);
                let inside = |c: &char| !c.is_whitespace() && !":[],\"".contains(*c);
                while let Some(c) = chars.next_if(inside) {
                    word.push(c);
                }
                all.push(Token::Word(word));
            }
        }
    }
    Ok(all)
}

/// Reads a specification; an error tells what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<CgroupProps>, String> {
    let mut reader = Reader { tokens: tokens(text).map_err(wrong)?.into_iter().peekable() };
    let mut all = Vec::new();
    while reader.tokens.peek().is_some() {
        all.push(reader.controller().map_err(wrong)?);
    }
    Ok(all)
}

fn wrong(why: String) -> String {
    format!("cgroup properties: {why}")
}

struct Reader {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Reader {
    fn word(&mut self, what: &str) -> Result<String, String> {
        match self.tokens.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("{what} expected, not {other:?}")),
        }
    }

    fn mark(&mut self, mark: char) -> Result<(), String> {
        match self.tokens.next() {
            Some(Token::Mark(m)) if m == mark => Ok(()),
            other => Err(format!("'{mark}' expected, not {other:?}")),
        }
    }

    fn controller(&mut self) -> Result<CgroupProps, String> {
        let controller = self.word("the name of a controller")?;
        self.mark(':')?;
        let mut props = CgroupProps { controller, replace: false, properties: Vec::new() };
        while self.tokens.next_if_eq(&Token::Mark('-')).is_some() {
            let key = self.word("strategy or properties")?;
            self.mark(':')?;
            match key.as_str() {
                "strategy" => {
                    props.replace = match self.word("merge or replace")?.as_str() {
                        "merge" => false,
                        "replace" => true,
                        other => return Err(format!("strategy {other} is unknown")),
                    };
                }
                "properties" => self.list(&mut props.properties)?,
                other => return Err(format!("{other} is neither strategy nor properties")),
            }
        }
        Ok(props)
    }

    fn list(&mut self, to: &mut Vec<String>) -> Result<(), String> {
        self.mark('[')?;
        if self.tokens.next_if_eq(&Token::Mark(']')).is_some() {
            return Ok(());
        }
        loop {
            let name = self.word("the name of a property")?;
            if name.contains('/') {
                return Err(format!("{name} is no property"));
            }
            to.push(name);
            match self.tokens.next() {
                Some(Token::Mark(',')) => {}
                Some(Token::Mark(']')) => return Ok(()),
                other => return Err(format!("',' or ']' expected, not {other:?}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_names_controllers_strategies_and_properties() {
        let text = "\"c1\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\", \"b\"]\n\
                    c2:\n -\"strategy\":replace # all\n - properties: []\n";
        let props = |controller: &str, replace, properties: &[&str]| CgroupProps {
            controller: controller.into(),
            replace,
            properties: properties.iter().map(|p| (*p).to_owned()).collect(),
        };
        let want = vec![props("c1", false, &["a", "b"]), props("c2", true, &[])];
        assert_eq!(parse(text), Ok(want));
    }

    #[test]
    fn what_is_no_specification_is_refused() {
        for text in
            ["c1", "\"c1", "c1:\n - what: x", "c1:\n - strategy: all", "c1:\n - properties: [a"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
