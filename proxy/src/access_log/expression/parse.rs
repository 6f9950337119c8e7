//! Reading expressions, by recursive descent.

use regex::RegexBuilder;

use super::{
    ExpressionError, MAX_DEPTH, MAX_OPERATORS, Node, Operator, Value,
    attribute::Attribute,
    tokens::{Token, tokens},
};

/// Most memory of one compiled regular expression, in bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Operators by how strongly they bind, the weakest first.
const LEVELS: [&[(&str, Operator)]; 4] = [
    &[("||", Operator::Or)],
    &[("&&", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
        ("in", Operator::In),
    ],
    &[("+", Operator::Add), ("-", Operator::Subtract)],
];

type Parsed<T> = Result<T, ExpressionError>;

pub(super) fn parse(text: &str) -> Parsed<Node> {
    let mut parser = Parser {
        tokens: tokens(text)?.into_iter().peekable(),
        depth: 0,
        operators: 0,
    };
    let node = parser.expression()?;
    match parser.tokens.next() {
        None => Ok(node),
        Some(token) => Err(unexpected(Some(&token))),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
    operators: usize,
}

/// What stands before a dot or a bracket.
enum Subject {
    /// It may yet become an attribute.
    Path(Vec<String>),
    Node(Node),
}

impl Parser {
    fn expression(&mut self) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpressionError("is nested too deeply".into()));
        }
        let condition = self.level(0)?;
        let node = if self.takes("?") {
            let holds = self.expression()?;
            self.expect(":")?;
            let other = self.expression()?;
            Node::Choice(Box::new([condition, holds, other]))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    fn level(&mut self, level: usize) -> Parsed<Node> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.level(level + 1)?;
        loop {
            let next = match self.tokens.peek() {
                Some(Token::Sign(sign)) => *sign,
                Some(Token::Name(name)) if name == "in" => "in",
                _ => return Ok(left),
            };
            let Some((_, operator)) = operators.iter().find(|(text, _)| *text == next) else {
                return Ok(left);
            };
            self.tokens.next();
            self.count_operator()?;
            left = if *operator == Operator::In {
                self.membership(left)?
            } else {
                let right = self.level(level + 1)?;
                Node::Binary(*operator, Box::new(left), Box::new(right))
            };
        }
    }

    /// What is behind `in`. A map has a key if it has an entry of that name.
    fn membership(&mut self, left: Node) -> Parsed<Node> {
        match (left, self.subject()?) {
            (Node::Literal(Value::Text(key)), Subject::Path(mut path))
                if Attribute::is_map(&path) =>
            {
                path.push(key);
                Attribute::parse(&path).map(Node::Has)
            }
            (left, right) => {
                let right = right.into_node()?;
                Ok(Node::Binary(Operator::In, Box::new(left), Box::new(right)))
            }
        }
    }

    fn unary(&mut self) -> Parsed<Node> {
        let mut signs = Vec::new();
        while let Some(Token::Sign(sign @ ("!" | "-"))) = self.tokens.peek() {
            signs.push(*sign);
            if signs.len() > MAX_DEPTH {
                return Err(ExpressionError("is nested too deeply".into()));
            }
            self.tokens.next();
            self.count_operator()?;
        }
        let mut node = self.subject()?.into_node()?;
        for sign in signs.into_iter().rev() {
            node = match sign {
                "!" => Node::Not(Box::new(node)),
                _ => Node::Negate(Box::new(node)),
            };
        }
        Ok(node)
    }

    /// With all dots and brackets behind it.
    fn subject(&mut self) -> Parsed<Subject> {
        let mut subject = self.primary()?;
        loop {
            if self.takes(".") {
                let Some(Token::Name(name)) = self.tokens.next() else {
                    return Err(ExpressionError("a name is expected behind a dot".into()));
                };
                subject = if self.takes("(") {
                    self.count_operator()?;
                    let arguments = self.arguments(")")?;
                    Subject::Node(method(subject.into_node()?, &name, arguments)?)
                } else {
                    subject.step(name)?
                };
            } else if self.takes("[") {
                let Some(Token::Text(key)) = self.tokens.next() else {
                    let message = "only texts are supported between brackets";
                    return Err(ExpressionError(message.into()));
                };
                self.expect("]")?;
                subject = subject.step(key)?;
            } else {
                return Ok(subject);
            }
        }
    }

    fn primary(&mut self) -> Parsed<Subject> {
        let node = match self.tokens.next() {
            Some(Token::Text(text)) => Node::Literal(Value::Text(text)),
            Some(Token::Int(number)) => Node::Literal(Value::Int(number)),
            Some(Token::Sign("(")) => {
                let node = self.expression()?;
                self.expect(")")?;
                node
            }
            Some(Token::Sign("[")) => Node::List(self.arguments("]")?),
            Some(Token::Name(name)) => match name.as_str() {
                "true" => Node::Literal(Value::Bool(true)),
                "false" => Node::Literal(Value::Bool(false)),
                _ if self.takes("(") => {
                    let arguments = self.arguments(")")?;
                    function(&name, arguments)?
                }
                _ => return Ok(Subject::Path(vec![name])),
            },
            other => return Err(unexpected(other.as_ref())),
        };
        Ok(Subject::Node(node))
    }

    fn count_operator(&mut self) -> Parsed<()> {
        self.operators += 1;
        match self.operators > MAX_OPERATORS {
            true => {
                let message = format!("has more than {MAX_OPERATORS} operators and methods");
                Err(ExpressionError(message))
            }
            false => Ok(()),
        }
    }

    /// Expressions with commas between them, up to `end`.
    fn arguments(&mut self, end: &'static str) -> Parsed<Vec<Node>> {
        let mut arguments = Vec::new();
        while !self.takes(end) {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            arguments.push(self.expression()?);
        }
        Ok(arguments)
    }

    fn takes(&mut self, sign: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(token, Token::Sign(it) if *it == sign))
            .is_some()
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        match self.takes(sign) {
            true => Ok(()),
            false => Err(ExpressionError(format!("{sign:?} is expected"))),
        }
    }
}

impl Subject {
    fn step(self, name: String) -> Parsed<Self> {
        match self {
            Self::Path(mut path) => {
                path.push(name);
                Ok(Self::Path(path))
            }
            Self::Node(_) => {
                let message = format!("{name:?} is no part of what stands before it");
                Err(ExpressionError(message))
            }
        }
    }

    fn into_node(self) -> Parsed<Node> {
        match self {
            Self::Node(node) => Ok(node),
            Self::Path(path) => Attribute::parse(&path).map(Node::Attribute),
        }
    }
}

fn function(name: &str, arguments: Vec<Node>) -> Parsed<Node> {
    let [argument] = <[Node; 1]>::try_from(arguments)
        .map_err(|_| ExpressionError(format!("{name}() needs one argument")))?;
    Ok(match (name, argument) {
        ("has", Node::Attribute(attribute)) => Node::Has(attribute),
        ("has", _) => {
            let message = "has() needs an attribute";
            return Err(ExpressionError(message.into()));
        }
        ("string", argument) => Node::Text(Box::new(argument)),
        ("int", argument) => Node::Int(Box::new(argument)),
        ("size", argument) => Node::Size(Box::new(argument)),
        _ => return Err(ExpressionError(format!("{name}() is not supported"))),
    })
}

fn method(subject: Node, name: &str, arguments: Vec<Node>) -> Parsed<Node> {
    let subject = Box::new(subject);
    if name == "size" && arguments.is_empty() {
        return Ok(Node::Size(subject));
    }
    let [argument] = <[Node; 1]>::try_from(arguments)
        .map_err(|_| ExpressionError(format!("{name}() needs one argument")))?;
    Ok(match (name, argument) {
        ("contains", argument) => Node::Contains(subject, Box::new(argument)),
        ("startsWith", argument) => Node::StartsWith(subject, Box::new(argument)),
        ("endsWith", argument) => Node::EndsWith(subject, Box::new(argument)),
        ("matches", Node::Literal(Value::Text(pattern))) => {
            let regex = RegexBuilder::new(&pattern)
                .size_limit(REGEX_SIZE_LIMIT)
                .build();
            let unsound = |_| ExpressionError(format!("{pattern:?} is not a regular expression"));
            Node::Matches(subject, regex.map_err(unsound)?)
        }
        ("matches", _) => {
            let message = "matches() needs a text";
            return Err(ExpressionError(message.into()));
        }
        _ => return Err(ExpressionError(format!("{name}() is not supported"))),
    })
}

fn unexpected(token: Option<&Token>) -> ExpressionError {
    ExpressionError(match token {
        None => "ends too early".into(),
        Some(Token::Name(name)) => format!("unexpected {name:?}"),
        Some(Token::Text(text)) => format!("unexpected {text:?}"),
        Some(Token::Int(number)) => format!("unexpected {number}"),
        Some(Token::Sign(sign)) => format!("unexpected {sign:?}"),
    })
}
