//! What is written, and what is said of it.

use super::*;
use crate::{config, config::Findings};

/// What is found in a composition of these steps, YAML in flow style, for a path with the parameters `id` and `rest`.
fn findings(compose: &str) -> Vec<String> {
    let (_, findings) = compiled(compose);
    findings.0.into_iter().map(|finding| format!("{}: {}", finding.field, finding.rule)).collect()
}

fn compiled(compose: &str) -> (Option<Composition>, Findings) {
    let text = format!(
        "listen: [127.0.0.1:0]\n\
         upstreams: {{ bank: {{ endpoints: [127.0.0.1:1] }} }}\n\
         routes: [{{ name: overview, path: '/overview/{{id}}', authenticate: [anonymous], compose: {compose} }}]\n"
    );
    let document = config::parse(&text).expect(compose);
    let mut findings = Findings::default();
    let context = crate::compile::Context { directory: std::path::Path::new("."), previous: None };
    let upstreams = crate::compile::upstreams::compile(&document, context, &mut findings);
    let written = document.routes.value[0].value.compose.as_ref().expect("a composition");
    let mut scene =
        Scene { findings: &mut findings, field: "routes[0]".into(), parameters: vec!["id".into()] };
    let composition = compile(&written.value, &upstreams, &mut scene);
    (composition, findings)
}

#[test]
fn what_is_wrong_is_found_without_a_request() {
    let step =
        |name: &str, more: &str| format!("{{ name: {name}, upstream: bank, path: '/x/{{id}}'{more} }}");
    let steps = |steps: &[String]| format!("{{ steps: [{}] }}", steps.join(", "));
    let one = |more: &str| steps(&[step("a", more)]);
    let path = |path: &str| format!("{{ steps: [{{ name: a, upstream: bank, path: {path:?} }}] }}");
    let cases = [
        (one(""), ""),
        (one(", optional: true, timeout: 1s, bytes: 64KiB, at: b.c, method: POST"), ""),
        (one(", headers: { x-a: 'y {id} {consumer}' }"), ""),
        ("{ steps: [] }".to_owned(), "routes[0].compose.steps: from 1 to 32 steps"),
        (steps(&[step("a", ""), step("a", "")]), "steps[1].name: a name of its own for each step"),
        (one(", after: [b]"), "steps[0].after: no step has the name b"),
        (one(", after: [a]"), "steps: steps wait for each other: a after a"),
        (
            steps(&[step("a", ", after: [b]"), step("b", ", after: [c]"), step("c", ", after: [b]")]),
            "steps: steps wait for each other: b after c after b",
        ),
        (one("").replace("bank", "shop"), "steps[0].upstream: no upstream has the name shop"),
        (one(", method: DELETE"), "steps[0].method: GET or POST; steps read"),
        (path("/x"), "steps: no step uses the path's parameter {id}"),
        (path("x/{id}"), "steps[0].path: a path that begins with a slash"),
        (path("/x/../{id}"), "steps[0].path: a path that begins with a slash"),
        (path("/x/{id}#a"), "steps[0].path: a path that begins with a slash"),
        (path("/x/{id"), "steps[0].path: a brace stands alone"),
        (path("/x/{id}/{me}"), "steps[0].path: {me} is neither a parameter of the route's path, nor"),
        (path("/x/{id}/{b.c}"), "steps[0].path: {b.c} is neither a parameter of the route's path, nor"),
        (path("/x/{id}/{a.b}"), "steps[0].path: {a.b} asks for the answer of a; write after: [a]"),
        (
            steps(&[step("a", ""), step("b", ", after: [a], headers: { x-a: '{a.b..c}' }")]),
            "steps[1].headers.x-a: `b..c`: a name is missing at character 3",
        ),
        (
            one(", headers: { connection: close }"),
            "steps[0].headers.connection: connection is the gateway's own",
        ),
        (one(", headers: { host: a }"), "steps[0].headers.host: host is the gateway's own"),
        (one(", fallback: '{'"), "steps[0].fallback: no JSON: the document ends too early at byte 1"),
        (
            one(", fallback: '[]'"),
            "steps[0].fallback: a JSON object, or give the step a place of its own by `at`",
        ),
        (one(", fallback: '[]', at: a"), ""),
        (
            one(", fallback: '{}', optional: true"),
            "steps[0].fallback: a step with a fallback is optional anyway",
        ),
        (one(", at: 'a[]'"), "steps[0].at: one place; `[]` names many"),
        (one(", at: 'a.'"), "steps[0].at: `a.`: a name is missing at character 3"),
        (one(", at: _partial.a"), "steps[0].at: `_partial` is the member that says what failed"),
        (one(", json: { pick: [a, a.b] }"), "steps[0].json: `a.b` is already covered by `a`"),
        (
            one("").replace("{ steps", "{ collision: fail, steps"),
            "collision: one of refuse, first, last, append",
        ),
        (one("").replace("{ steps", "{ depth: 200, steps"), "depth: from 1 to 128"),
    ];
    for (compose, expected) in cases {
        let found = findings(&compose);
        match expected {
            "" => assert_eq!(found, [""; 0], "{compose}"),
            _ => assert!(found.len() == 1 && found[0].contains(expected), "{compose}: {found:?}"),
        }
    }
}

#[test]
fn names_in_braces_become_places() {
    let (composition, findings) = compiled(
        "{ steps: [\
           { name: rates, upstream: bank, path: '/rates/{account.currency}?of={id}&to={account.owner.currency}', \
             after: [account], headers: { x-currency: '{account.currency}' } }, \
           { name: account, upstream: bank, path: '/accounts' }] }",
    );
    assert_eq!(findings, Findings::default());
    let Composition { plan, calls } = composition.expect("compiles");
    let shown: Vec<_> = plan.steps[1].values.iter().map(Path::to_string).collect();
    assert_eq!(shown, ["currency", "owner.currency"]);
    assert_eq!(plan.steps[0].after, [1]);
    assert_eq!(calls[1].target, Text::Fixed(Uri::from_static("/accounts")));
    let answer = |value| Source::Answer { step: 1, value };
    let currency = Part::Value(answer(0), Place::Header);
    assert_eq!(calls[0].headers, [(HeaderName::from_static("x-currency"), Text::Made(vec![currency]))]);
    let parts = vec![
        Part::Fixed("/rates/".into()),
        Part::Value(answer(0), Place::Path),
        Part::Fixed("?of=".into()),
        Part::Value(Source::Parameter(0), Place::Query),
        Part::Fixed("&to=".into()),
        Part::Value(answer(1), Place::Query),
    ];
    assert_eq!(calls[0].target, Text::Made(parts));
}
