//! What rules ask of the registry and of products: single values, parts of products, and loops over subkeys.

use std::{collections::BTreeSet, path::PathBuf};

use tierway_common::{
    facts::Domain,
    rules::{
        evaluate::{Truth, asks, evaluate},
        expr::{Expr, LoopTest, Quantity},
    },
};

use super::{
    files,
    products::{self, Product},
    registry::Registry,
};
use crate::scan::{Asked, Collected, hash::Budget};

/// Subkeys that one loop looks at; the list of programs has some hundred, the packages of Windows 5,000.
const LOOP_SUBKEYS_MAX: usize = 20_000;

/// Loops within loops that are followed; vendors nest them twice.
const LOOP_DEPTH_MAX: usize = 4;

/// Reads the domains `registry`, `msi` and `registry-loop` as far as `asked`; files that loops look at are digested
/// within `budget`.
pub(super) fn scan(registry: &dyn Registry, asked: &Asked, budget: &mut Budget, collected: &mut Collected) {
    for (name, source) in [
        ("registry", "the registry"),
        ("registry-loop", "the registry"),
        ("msi", "what Windows Installer keeps in the registry"),
    ] {
        collected.domain(name, Domain::Asked { source: source.to_owned() });
    }
    let mut reader = Reader { registry, budget, products: None };
    // Loops last: what they ask may have been asked already.
    let (loops, others): (Vec<_>, Vec<_>) = asked.questions.iter().partition(|key| is_loop(key));
    for key in others.into_iter().chain(loops) {
        reader.answer(key, LOOP_DEPTH_MAX, collected);
    }
}

fn is_loop(key: &str) -> bool {
    key.starts_with("registry-loop:")
}

/// Answers the questions of one scan.
struct Reader<'a> {
    registry: &'a dyn Registry,
    budget: &'a mut Budget,
    /// Listed when first asked for.
    products: Option<Result<Vec<Product>, String>>,
}

impl Reader<'_> {
    /// Answers one question, by the key of its fact.
    fn answer(&mut self, key: &str, depth: usize, collected: &mut Collected) {
        let Some((domain, rest)) = key.split_once(':') else { return };
        let answered = match domain {
            "registry" => registry_facts(self.registry, rest, collected),
            "msi" => self.part(key, rest, collected),
            "registry-loop" => self.looped(key, rest, depth, collected),
            "file" => {
                let path = files_path(rest);
                let hashed = rest.ends_with("#sha256");
                files::look(self.registry, path, hashed, self.budget, PathBuf::from, collected);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(reason) = answered {
            collected.problem(reason);
        }
    }

    fn part(&mut self, key: &str, rest: &str, collected: &mut Collected) -> Result<(), String> {
        let Some((product, (kind, name))) =
            rest.split_once('/').and_then(|(product, part)| Some((product, part.split_once('/')?)))
        else {
            return Ok(());
        };
        let listed = self.products.get_or_insert_with(|| products::products(self.registry));
        let listed = listed.as_ref().map_err(Clone::clone)?;
        if let Some(there) = products::has_part(self.registry, listed, product, kind, name)? {
            collected.set(key, if there { "present" } else { "absent" });
        }
        Ok(())
    }

    /// Answers a loop: by its rule without the loop, of which everything is read that it asks.
    fn looped(
        &mut self,
        key: &str,
        rest: &str,
        depth: usize,
        collected: &mut Collected,
    ) -> Result<(), String> {
        let Some((test, left)) = parse(rest).zip(depth.checked_sub(1)) else {
            return Err(format!("a loop over subkeys is not understood, or is too deep: `{rest}`"));
        };
        let subkeys = self.registry.subkeys(&test.key)?.unwrap_or_default();
        if subkeys.len() > LOOP_SUBKEYS_MAX {
            return Err(format!("`{}` has {} subkeys, too many to look at", test.key, subkeys.len()));
        }
        let rule = test.unrolled(subkeys.iter().map(String::as_str));
        let mut asked = BTreeSet::new();
        asks(&rule, &mut asked);
        // What only the loop asks is not told: its answer is.
        let mut added = Vec::new();
        for ask in &asked {
            if collected.facts.values.contains_key(ask) {
                continue;
            }
            if is_loop(ask) {
                // Adds its answer and nothing else.
                self.answer(ask, left, collected);
                added.push(ask.clone());
                continue;
            }
            // Apart from what was known before, which reading it needs nothing of.
            let mut apart = Collected::default();
            self.answer(ask, left, &mut apart);
            collected.problems.append(&mut apart.problems);
            for (fact, value) in apart.facts.values {
                if collected.facts.values.insert(fact.clone(), value).is_none() {
                    added.push(fact);
                }
            }
        }
        let truth = evaluate(&rule, &collected.facts);
        for fact in &added {
            collected.facts.values.remove(fact);
        }
        match truth {
            Truth::True => collected.set(key, "true"),
            Truth::False => collected.set(key, "false"),
            // What could not be read was told above.
            Truth::Unknown(_) => {}
        }
        Ok(())
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
    use std::cell::Cell;

    use tierway_common::rules::expr::{Compare, DataOrdering, LOOP_TARGET, MsiPart, MsiTest, RegistryTest};

    use super::{
        super::registry::{Data, Written},
        *,
    };

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
        scan(registry, &asked, &mut Budget::new(), &mut collected);
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

    /// Counts how often the registry is listed.
    struct Counted(Written, Cell<u32>);

    impl Registry for Counted {
        fn subkeys(&self, key: &str) -> Result<Option<Vec<String>>, String> {
            self.1.set(self.1.get() + 1);
            self.0.subkeys(key)
        }

        fn values(&self, key: &str) -> Result<Option<Vec<String>>, String> {
            self.0.values(key)
        }

        fn value(&self, key: &str, name: &str) -> Result<Option<Data>, String> {
            self.0.value(key, name)
        }

        fn has(&self, key: &str) -> Result<bool, String> {
            self.0.has(key)
        }
    }

    #[test]
    fn however_much_is_asked_of_products_they_are_listed_once() {
        let mut asked = Asked::default();
        for name in ["Main", "Other", "Third"] {
            let part = MsiPart::Feature(name.to_owned());
            asked.add(&Expr::Msi(MsiTest { product: "{X}".to_owned(), part }));
        }
        let counted = Counted(registry(), Cell::new(0));
        let mut collected = Collected::default();
        scan(&counted, &asked, &mut Budget::new(), &mut collected);
        let absent = collected.facts.values.values().filter(|value| *value == "absent").count();
        assert_eq!((absent, counted.1.get()), (3, 1));
    }

    #[test]
    fn a_product_that_is_not_there_has_no_parts() {
        let part = MsiPart::Feature("Main".to_owned());
        let rule = Expr::Msi(MsiTest { product: "{X}".to_owned(), part });
        assert_eq!(check(&registry(), &rule).0, Truth::False);
    }
}
