//! What rules ask of the registry and of products: single values, parts of products, and loops over subkeys.

use std::{collections::BTreeSet, path::PathBuf};

use tierway_common::{
    facts::Domain,
    rules::{
        evaluate::{Truth, asks, evaluate},
        expr::{Expr, LoopTest, Quantity},
    },
};

use super::{files, products, registry::Registry};
use crate::scan::{Asked, Collected, hash::Budget};

/// Subkeys that one loop looks at; the list of programs has some hundred, the packages of Windows 5,000.
const LOOP_SUBKEYS_MAX: usize = 20_000;

/// Loops within loops that are followed; vendors nest them twice.
const LOOP_DEPTH_MAX: usize = 4;

/// Reads the domains `registry`, `msi` and `registry-loop` as far as `asked`.
pub(super) fn scan(registry: &dyn Registry, asked: &Asked, collected: &mut Collected) {
    for (name, source) in [
        ("registry", "the registry"),
        ("registry-loop", "the registry"),
        ("msi", "what Windows Installer keeps in the registry"),
    ] {
        collected.domain(name, Domain::Asked { source: source.to_owned() });
    }
    // Loops last: what they ask may have been asked already.
    let (loops, others): (Vec<_>, Vec<_>) =
        asked.questions.iter().partition(|key| key.starts_with("registry-loop:"));
    for key in others.into_iter().chain(loops) {
        answer(registry, key, LOOP_DEPTH_MAX, collected);
    }
}

/// Answers one question, by the key of its fact.
fn answer(registry: &dyn Registry, key: &str, depth: usize, collected: &mut Collected) {
    let Some((domain, rest)) = key.split_once(':') else { return };
    let answered = match domain {
        "registry" => registry_facts(registry, rest, collected),
        "msi" => part(registry, key, rest, collected),
        "registry-loop" => looped(registry, key, rest, depth, collected),
        "file" => {
            let path = files_path(rest);
            let hashed = rest.ends_with("#sha256");
            files::look(registry, path, hashed, &mut Budget::new(), PathBuf::from, collected);
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(reason) = answered {
        collected.problem(reason);
    }
}

/// The path in the key of a fact about a file.
fn files_path(rest: &str) -> &str {
    let parts = ["#version", "#size", "#sha256", "#created", "#modified", "#language"];
    parts.into_iter().find_map(|part| rest.strip_suffix(part)).unwrap_or(rest)
}

fn registry_facts(registry: &dyn Registry, rest: &str, collected: &mut Collected) -> Result<(), String> {
    let about_value = rest.strip_prefix("@value:").or_else(|| rest.strip_prefix("@type:"));
    let Some((key, name)) = about_value.unwrap_or(rest).rsplit_once('#') else {
        let there = registry.has(rest)?;
        collected.set(format!("registry:{rest}"), if there { "present" } else { "absent" });
        return Ok(());
    };
    let data = registry.value(key, name)?;
    let there = if data.is_some() { "present" } else { "absent" };
    collected.set(format!("registry:@value:{key}#{name}"), there);
    if let Some(data) = data {
        collected.set(format!("registry:@type:{key}#{name}"), data.kind.to_string());
        collected.set(format!("registry:{key}#{name}"), data.fact());
    }
    Ok(())
}

fn part(registry: &dyn Registry, key: &str, rest: &str, collected: &mut Collected) -> Result<(), String> {
    let Some((product, (kind, name))) =
        rest.split_once('/').and_then(|(product, part)| Some((product, part.split_once('/')?)))
    else {
        return Ok(());
    };
    if let Some(there) = products::has_part(registry, product, kind, name)? {
        collected.set(key, if there { "present" } else { "absent" });
    }
    Ok(())
}

/// Answers a loop: by its rule without the loop, of which everything is read that it asks.
fn looped(
    registry: &dyn Registry,
    key: &str,
    rest: &str,
    depth: usize,
    collected: &mut Collected,
) -> Result<(), String> {
    let Some((test, left)) = parse(rest).zip(depth.checked_sub(1)) else {
        return Err(format!("a loop over subkeys is not understood, or is too deep: `{rest}`"));
    };
    let subkeys = registry.subkeys(&test.key)?.unwrap_or_default();
    if subkeys.len() > LOOP_SUBKEYS_MAX {
        return Err(format!("`{}` has {} subkeys, too many to look at", test.key, subkeys.len()));
    }
    let rule = test.unrolled(subkeys.iter().map(String::as_str));
    let mut asked = BTreeSet::new();
    asks(&rule, &mut asked);
    // What only the loop asks is not told: its answer is.
    let before: BTreeSet<String> = collected.facts.values.keys().cloned().collect();
    for ask in asked.difference(&before) {
        answer(registry, ask, left, collected);
    }
    let truth = evaluate(&rule, &collected.facts);
    collected.facts.values.retain(|fact, _| before.contains(fact));
    match truth {
        Truth::True => collected.set(key, "true"),
        Truth::False => collected.set(key, "false"),
        // What could not be read was told above.
        Truth::Unknown(_) => {}
    }
    Ok(())
}

/// `<any, all or none> <key>: <test as JSON>`.
fn parse(rest: &str) -> Option<LoopTest> {
    let (of, rest) = rest.split_once(' ')?;
    let of = [Quantity::Any, Quantity::All, Quantity::None].into_iter().find(|known| known.as_str() == of)?;
    // A key may have a `: {` in it as little as a JSON text may begin before its first brace or quote.
    let (key, test) = rest.match_indices(": ").find_map(|(at, _)| {
        let test: Expr = serde_json::from_str(&rest[at + 2..]).ok()?;
        Some((rest[..at].to_owned(), test))
    })?;
    Some(LoopTest { key, of, test: Box::new(test) })
}

#[cfg(test)]
mod tests {
    use tierway_common::rules::expr::{Compare, DataOrdering, LOOP_TARGET, MsiPart, MsiTest, RegistryTest};

    use super::{super::registry::Written, *};

    const LIST: &str = r"HKLM\SOFTWARE\List";

    fn registry() -> Written {
        let mut registry = Written::default();
        registry
            .text(&format!("{LIST}\\1"), "Name", "Java 8")
            .number(&format!("{LIST}\\1"), "Major", 8)
            .text(&format!("{LIST}\\2"), "Name", "Other");
        registry
    }

    fn test_of(key: &str, value: &str, data: Option<Compare>, ordering: DataOrdering) -> Expr {
        let (value, ordering) = (Some(value.to_owned()), Some(ordering));
        Expr::Registry(RegistryTest { key: key.to_owned(), value, data, ordering, ..Default::default() })
    }

    /// Reads what `rule` asks, and evaluates it.
    fn check(registry: &Written, rule: &Expr) -> (Truth, Collected) {
        let mut asked = Asked::default();
        asked.add(rule);
        let mut collected = Collected::default();
        scan(registry, &asked, &mut collected);
        (evaluate(rule, &collected.facts), collected)
    }

    #[test]
    fn a_value_is_read_with_its_type_and_an_absent_one_is_false() {
        let major = |compare| test_of(&format!("{LIST}\\1"), "Major", Some(compare), DataOrdering::Number);
        let (truth, collected) = check(&registry(), &major(Compare::Ge("8".to_owned())));
        assert_eq!(truth, Truth::True);
        assert_eq!(collected.facts.values[&format!("registry:@type:{LIST}\\1#Major")], "REG_DWORD");
        assert_eq!(check(&registry(), &major(Compare::Gt("8".to_owned()))).0, Truth::False);
        let absent = test_of(LIST, "None", Some(Compare::Eq("x".to_owned())), DataOrdering::Caseless);
        assert_eq!(check(&registry(), &absent).0, Truth::False);
        let key = |key: &str| Expr::Registry(RegistryTest { key: key.to_owned(), ..Default::default() });
        assert_eq!(check(&registry(), &key(LIST)).0, Truth::True);
        assert_eq!(check(&registry(), &key("HKLM\\None")).0, Truth::False);
    }

    #[test]
    fn a_loop_is_answered_and_what_it_read_is_not_told() {
        let name = |text: &str| {
            let begins = Some(Compare::Begins(text.to_owned()));
            test_of(LOOP_TARGET, "Name", begins, DataOrdering::Caseless)
        };
        for (of, text, wanted) in [
            (Quantity::Any, "java", Truth::True),
            (Quantity::All, "java", Truth::False),
            (Quantity::None, "java", Truth::False),
            (Quantity::None, "ruby", Truth::True),
        ] {
            let rule = Expr::RegistryLoop(LoopTest { key: LIST.to_owned(), of, test: Box::new(name(text)) });
            let (truth, collected) = check(&registry(), &rule);
            assert_eq!(truth, wanted, "{of:?} {text}");
            assert_eq!(collected.facts.values.len(), 1);
        }
    }

    #[test]
    fn what_a_loop_cannot_read_makes_it_unknown_and_is_told() {
        let mut registry = registry();
        registry.forbidden.push(format!("{LIST}\\2"));
        let test = test_of(LOOP_TARGET, "Name", None, DataOrdering::Caseless);
        let every = LoopTest { key: LIST.to_owned(), of: Quantity::All, test: Box::new(test) };
        let (truth, collected) = check(&registry, &Expr::RegistryLoop(every));
        assert!(matches!(truth, Truth::Unknown(_)));
        assert!(collected.problems[0].to_string().contains("Access is denied"));
    }

    #[test]
    fn a_product_that_is_not_there_has_no_parts() {
        let part = MsiPart::Feature("Main".to_owned());
        let rule = Expr::Msi(MsiTest { product: "{X}".to_owned(), part });
        assert_eq!(check(&registry(), &rule).0, Truth::False);
    }
}
