//! Policy documents of any kind: listed, shown, read from a file, set and deleted the same way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use tierway_proto::v1;

use crate::{
    client::Policies,
    confirm::{ConfirmArgs, confirm},
    failure::{Exit, Failure},
    output::{
        is_for_people,
        listing::{self, Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::Value,
    },
    screen::Screen,
};

/// A kind of policy document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// As in messages.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// The field that names it, where it has one.
    pub(crate) id: Option<&'static str>,
}

pub(crate) const LEVEL: Kind = Kind { name: "level", title: "service level", id: Some("id") };
pub(crate) const WINDOW: Kind = Kind { name: "window", title: "window", id: Some("id") };
pub(crate) const RING_PLAN: Kind = Kind { name: "ring-plan", title: "ring plan", id: Some("id") };
pub(crate) const RESULT_CODES: Kind = Kind { name: "result-codes", title: "table of result codes", id: None };
pub(crate) const TRUST: Kind = Kind { name: "trust", title: "trust policy", id: None };
/// All kinds.
pub(crate) const KINDS: [Kind; 5] = [LEVEL, WINDOW, RING_PLAN, RESULT_CODES, TRUST];

/// A file with a whole document.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// Takes the whole document from this TOML or JSON file
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// The text of a document's file as JSON: TOML unless its name ends in `.json`.
///
/// # Errors
///
/// When it cannot be read, or is no object.
pub(crate) fn read_file(path: &Path) -> Result<Map<String, Json>, Failure> {
    let what = || format!("read `{}`", path.display());
    let text = fs::read_to_string(path).map_err(Failure::local(what()))?;
    let value = match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(Failure::local(what()))?,
        false => from_toml(toml::from_str::<toml::Value>(&text).map_err(Failure::local(what()))?),
    };
    match value {
        Json::Object(object) => Ok(object),
        _ => Err(Failure::Plain(format!("could not {}: it holds no table", what()))),
    }
}

/// Times of day, which TOML has and JSON has not, become texts.
fn from_toml(value: toml::Value) -> Json {
    match value {
        toml::Value::String(text) => Json::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => Json::String(time.to_string()),
        toml::Value::Array(values) => values.into_iter().map(from_toml).collect(),
        toml::Value::Table(table) => {
            Json::Object(table.into_iter().map(|(key, value)| (key, from_toml(value))).collect())
        }
    }
}

/// The document in a file, named `name`: what the file says of its name must be that.
///
/// # Errors
///
/// [`Failure::Usage`] when it is named otherwise.
pub(crate) fn read_named(kind: Kind, path: &Path, name: &str) -> Result<Json, Failure> {
    let mut object = read_file(path)?;
    if let Some(id) = kind.id {
        let said = object.entry(id).or_insert_with(|| name.into());
        if said.as_str() != Some(name) {
            let text = format!("`{}` is about {} {said}, not about `{name}`", path.display(), kind.title);
            return Err(Failure::Usage(text));
        }
    }
    Ok(Json::Object(object))
}

/// All documents of a kind, by name.
pub(crate) async fn all(policies: &mut Policies, kind: Kind) -> Result<Vec<v1::Policy>, Failure> {
    let request = v1::ListPoliciesRequest { kind: Some(kind.name.to_owned()) };
    let what = format!("list each {}", kind.title);
    let answer = policies.list_policies(request).await.map_err(Failure::call(what))?;
    Ok(answer.into_inner().policies)
}

/// One document by its name.
pub(crate) async fn find(
    policies: &mut Policies,
    kind: Kind,
    name: &str,
) -> Result<Option<v1::Policy>, Failure> {
    Ok(all(policies, kind).await?.into_iter().find(|policy| policy.name == name))
}

/// One document that must be there, as its type.
pub(crate) async fn get<T: DeserializeOwned>(
    policies: &mut Policies,
    kind: Kind,
    name: &str,
) -> Result<T, Failure> {
    let found = find(policies, kind, name).await?;
    let found = found
        .ok_or_else(|| Failure::Plain(format!("could not show {} `{name}`: there is none", kind.title)))?;
    serde_json::from_str(&found.json).map_err(Failure::local(format!("read {} `{name}`", kind.title)))
}

fn field(policy: &v1::Policy, path: &[&str]) -> Json {
    let json: Json = serde_json::from_str(&policy.json).unwrap_or_default();
    path.iter().fold(json, |value, key| value.get(key).cloned().unwrap_or_default())
}

/// A field of the document as a cell.
pub(crate) fn cell(policy: &v1::Policy, path: &[&str]) -> Value {
    match field(policy, path) {
        Json::Null => Value::text("-"),
        Json::String(text) => Value::Text(text),
        Json::Array(values) => Value::Names(
            values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect(),
        ),
        other => Value::Text(other.to_string()),
    }
}

/// The document, for JSON.
pub(crate) fn whole(policy: &v1::Policy) -> Value {
    Value::Json(field(policy, &[]))
}

/// Lists the documents of a kind.
pub(crate) async fn list(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    kind: Kind,
    shape: &Shape<v1::Policy>,
) -> Result<Exit, Failure> {
    listing::write_all(screen, shape, &all(policies, kind).await?)?;
    Ok(Exit::Ok)
}

/// Shows a document with every field it says something about.
pub(crate) async fn show(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    kind: Kind,
    name: &str,
) -> Result<Exit, Failure> {
    let found = find(policies, kind, name).await?;
    let found = found
        .ok_or_else(|| Failure::Plain(format!("could not show {} `{name}`: there is none", kind.title)))?;
    let fields: Map<String, Json> =
        serde_json::from_str(&found.json).map_err(Failure::local(format!("read {} `{name}`", kind.title)))?;
    let mut sheet = vec![("name", Value::Text(found.name)), ("used_by", Value::Text(found.used_by))];
    if !is_for_people(&screen.options) {
        sheet.push(("document", Value::Json(Json::Object(fields))));
        Sheet::new(sheet).write(screen)?;
        return Ok(Exit::Ok);
    }
    Sheet::new(sheet).write(screen)?;
    let rows: Vec<(String, Json)> =
        fields.into_iter().filter(|(key, _)| Some(key.as_str()) != kind.id).collect();
    section(screen, "", &FIELDS, &rows)?;
    Ok(Exit::Ok)
}

const FIELDS: Shape<(String, Json)> = Shape {
    columns: &[
        Column::new("setting", |row| Value::text(&row.0)),
        Column::new("value", |row| match &row.1 {
            Json::String(text) => Value::text(text),
            other => Value::Text(other.to_string()),
        }),
    ],
    tint: |_| Tint::Plain,
};

/// Hands a document to central.
pub(crate) async fn set<T: Serialize + ?Sized>(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    kind: Kind,
    document: &T,
) -> Result<Exit, Failure> {
    let json = serde_json::to_string(document).map_err(Failure::local("write the document as JSON"))?;
    let request = v1::SetPoliciesRequest {
        policies: vec![v1::NewPolicy { kind: kind.name.to_owned(), json }],
        dry_run: false,
    };
    let what = format!("set the {}", kind.title);
    let answer = policies.set_policies(request).await.map_err(Failure::call(what))?.into_inner();
    let v1::SetPoliciesResponse { audit_sequence, outcomes } = answer;
    let v1::PolicyOutcome { kind: _, name, outcome } = outcomes.into_iter().next().unwrap_or_default();
    let sentence = format!("{outcome} {} `{name}`", kind.title);
    let fields = [("name", Value::Text(name)), ("outcome", Value::Text(outcome))];
    changed(screen, &sentence, fields, audit_sequence)?;
    Ok(Exit::Ok)
}

/// Deletes a document when nothing names it.
pub(crate) async fn delete(
    screen: &mut Screen<'_>,
    policies: &mut Policies,
    kind: Kind,
    name: String,
    asked: ConfirmArgs,
) -> Result<Exit, Failure> {
    let what = format!("delete {} `{name}`", kind.title);
    confirm(screen, asked, &what, &name)?;
    let request = v1::DeletePolicyRequest { kind: kind.name.to_owned(), name: name.clone() };
    let change = policies.delete_policy(request).await.map_err(Failure::call(what))?.into_inner();
    let sentence = format!("deleted {} `{name}`", kind.title);
    changed(screen, &sentence, [("name", Value::Text(name))], change.audit_sequence)?;
    Ok(Exit::Ok)
}
