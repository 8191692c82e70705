//! Expressions of the Common Expression Language over a request, such as
//! `request.headers["x-tenant"].startsWith("eu-") && request.path != "/v1"`.
//!
//! An expression is read once. Of a request it resolves only what it names, borrowed. Its work is bounded by its text:
//! comprehensions (`all`, `exists`, `map`, `filter`) are refused, and `matches` takes a text that is written there,
//! compiled with it and searched in linear time.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, sync::OnceLock};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Program, Value,
    common::{
        ast::{EntryExpr, Expr, LiteralValue},
        traits::{Container, Indexer},
        types::{CelString, MAP_TYPE, Type},
        value::{CowVal, Val},
    },
    context::VariableResolver,
    extractors::This,
};
use form_urlencoded::parse;
use http::{HeaderName, request::Parts};
use regex::Regex;

use crate::route::when::{Asked, cookies};

/// The longest expression, in bytes.
const TEXT_MAX: usize = 4096;
/// A compiled regular expression's room, in bytes.
const REGEX_SIZE_MAX: usize = 64 << 10;

/// What an expression may name.
const VARIABLES: [&str; 7] = [
    "request.method",
    "request.path",
    "request.host",
    "request.headers",
    "request.query",
    "request.cookies",
    "source.address",
];

/// What an expression may call, beside operators.
const FUNCTIONS: [&str; 10] =
    ["size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "string", "bool"];

/// A compiled expression.
pub struct Expression {
    program: Program,
    text: String,
    /// The patterns of its calls of `matches`, by their text.
    regexes: Arc<BTreeMap<String, Regex>>,
}

/// An expression that came to no answer: it named what is not there, or compared what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided;

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("at most {TEXT_MAX} bytes"));
        }
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.errors.first().map(|error| error.msg.clone());
            first.unwrap_or_else(|| "no expression".to_owned())
        })?;
        let mut regexes = BTreeMap::new();
        check(program.expression(), &mut regexes)?;
        let expression = Self { program, text: text.to_owned(), regexes: Arc::new(regexes) };
        let (head, ()) = http::Request::new(()).into_parts();
        let nothing = Asked { head: &head, host: "", client: IpAddr::from([0, 0, 0, 0]) };
        match expression.value(&nothing) {
            Ok(Value::Bool(_)) | Err(_) => Ok(expression),
            Ok(_) => Err("write an expression that is true or false".to_owned()),
        }
    }

    /// Whether it is true of a request.
    ///
    /// # Errors
    /// [`Undecided`].
    pub fn holds(&self, asked: &Asked<'_>) -> Result<bool, Undecided> {
        match self.value(asked) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) | Err(_) => Err(Undecided),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn value(&self, asked: &Asked<'_>) -> Result<Value, ExecutionError> {
        static LIBRARY: OnceLock<Arc<Env>> = OnceLock::new();
        let variables = Variables(*asked);
        let mut context = Context::with_env(LIBRARY.get_or_init(|| Arc::new(Env::stdlib())).clone());
        context.set_variable_resolver(&variables);
        if !self.regexes.is_empty() {
            let regexes = self.regexes.clone();
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| -> bool {
                regexes.get(&*pattern).is_some_and(|regex| regex.is_match(&text))
            };
            // It fails for a name of the library alone, which has no `matches` without its feature `regex`.
            let _ = context.add_function("matches", matches);
        }
        self.program.execute(&context)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an expression may not say; the patterns of `matches` are compiled.
fn check(expression: &IdedExpr, regexes: &mut BTreeMap<String, Regex>) -> Result<(), String> {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => Err(unknown(name)),
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(root) => match format!("{root}.{}", select.field) {
                name if VARIABLES.contains(&&*name) => Ok(()),
                name => Err(unknown(&name)),
            },
            _ => check(&select.operand, regexes),
        },
        Expr::Call(call) => {
            let name = &*call.func_name;
            let is_operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
            if !is_operator && !FUNCTIONS.contains(&name) {
                return Err(format!("{name} is no function; there are {}", FUNCTIONS.join(", ")));
            }
            if name == "matches" {
                let pattern = match call.args.last().map(|argument| &argument.expr) {
                    Some(Expr::Literal(LiteralValue::String(pattern))) => pattern.inner().to_owned(),
                    _ => return Err("matches takes a text that is written there".to_owned()),
                };
                regexes.insert(pattern.clone(), regex(&pattern)?);
            }
            call.target
                .iter()
                .map(|target| &**target)
                .chain(&call.args)
                .try_for_each(|part| check(part, regexes))
        }
        Expr::List(list) => list.elements.iter().try_for_each(|element| check(element, regexes)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                check(&entry.key, regexes).and_then(|()| check(&entry.value, regexes))
            }
            EntryExpr::StructField(field) => check(&field.value, regexes),
        }),
        Expr::Comprehension(_) => {
            Err("no all, exists, map or filter: an expression's work is bounded".to_owned())
        }
        Expr::Struct(_) => Err("there are no structures".to_owned()),
    }
}

fn unknown(name: &str) -> String {
    format!("{name} is not known; there are {}", VARIABLES.join(", "))
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE_MAX).build();
    built.map_err(|error| format!("{pattern}: {error}"))
}

/// A request's variables, each made when it is asked for.
struct Variables<'r>(Asked<'r>);

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let head = self.0.head;
        Some(match variable {
            "request.method" => CowVal::owned(CelString::from(head.method.as_str())),
            "request.path" => CowVal::owned(CelString::from(head.uri.path())),
            "request.host" => CowVal::owned(CelString::from(self.0.host)),
            "request.headers" => CowVal::owned(Fields { head, of: header }),
            "request.query" => CowVal::owned(Fields { head, of: parameter }),
            "request.cookies" => CowVal::owned(Fields { head, of: cookie }),
            "source.address" => CowVal::owned(CelString::from(self.0.client.to_string())),
            _ => return None,
        })
    }
}

/// The first value of a name among headers, parameters or cookies.
#[derive(Clone)]
struct Fields<'r> {
    head: &'r Parts,
    of: for<'h> fn(&'h Parts, &str) -> Option<CelString<'h>>,
}

fn header<'h>(head: &'h Parts, name: &str) -> Option<CelString<'h>> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    head.headers.get(name)?.to_str().ok().map(CelString::from)
}

fn parameter<'h>(head: &'h Parts, name: &str) -> Option<CelString<'h>> {
    let (_, value) = parse(head.uri.query()?.as_bytes()).find(|(key, _)| key == name)?;
    Some(CelString::from(value.into_owned()))
}

fn cookie<'h>(head: &'h Parts, name: &str) -> Option<CelString<'h>> {
    let (_, value) = cookies(head).find(|(key, _)| *key == name.as_bytes())?;
    std::str::from_utf8(value).ok().map(CelString::from)
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("fields of a request")
    }
}

impl Val for Fields<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Container for Fields<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        let name = name.downcast_ref::<CelString>().ok_or_else(|| ExecutionError::no_such_key("?"))?;
        Ok((self.of)(self.head, name.inner()).is_some())
    }
}

impl Indexer for Fields<'_> {
    fn get<'b, 'v>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = name.downcast_ref::<CelString>().ok_or_else(|| ExecutionError::no_such_key("?"))?;
        let value = (self.of)(self.head, name.inner());
        value
            .map(|value| CowVal::owned(CelString::from(value.inner().to_owned())))
            .ok_or_else(|| ExecutionError::no_such_key(name.inner()))
    }

    fn steal<'v>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> Result<bool, Undecided> {
        let request = http::Request::get("/v1/orders?tenant=a%20b&tenant=c")
            .header("x-tenant", "eu-west")
            .header("cookie", "beta=1; theme=dark")
            .body(())
            .unwrap();
        let (head, ()) = request.into_parts();
        let asked = Asked { head: &head, host: "api.example", client: "192.0.2.7".parse().unwrap() };
        Expression::compile(text).unwrap_or_else(|rule| panic!("{text}: {rule}")).holds(&asked)
    }

    #[test]
    fn expressions_see_the_request() {
        for text in [
            "request.method == 'GET' && request.path.startsWith('/v1/')",
            "request.host == 'api.example'",
            "request.headers['x-tenant'].startsWith('eu-')",
            "has(request.headers.host) == false && 'x-tenant' in request.headers",
            "request.query.tenant == 'a b'",
            "request.cookies['theme'] in ['dark', 'light']",
            "source.address == '192.0.2.7'",
            "request.path.matches('^/v[0-9]+/')",
            "size(request.path) > 5",
        ] {
            assert_eq!(holds(text), Ok(true), "{text}");
        }
        assert_eq!(holds("request.headers['X-Tenant'] == 'us'"), Ok(false));
        for text in ["request.headers['x-none'] == 'a'", "request.path > 1", "int(request.path) == 1"] {
            assert_eq!(holds(text), Err(Undecided), "{text}");
        }
    }

    #[test]
    fn what_is_unknown_or_unbounded_is_refused() {
        for (text, rule) in [
            ("request.hosts == 'a'", "request.hosts is not known"),
            ("tenant == 'a'", "tenant is not known"),
            ("request.path == lower('A')", "lower is no function"),
            ("['a'].exists(x, x == request.path)", "bounded"),
            ("request.path.matches(request.host)", "written there"),
            ("request.path.matches('(')", "("),
            ("request.path", "true or false"),
            ("1 +", ""),
        ] {
            let refused = Expression::compile(text).expect_err(text);
            assert!(refused.contains(rule), "{text}: {refused}");
        }
        assert!(Expression::compile(&format!("'{}' == ''", "a".repeat(TEXT_MAX))).is_err());
    }
}
