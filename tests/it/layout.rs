//! The layout of `src`: modules import from lower floors or their own folder, and files form no cycle.
//!
//! The floors are those of the table in `src/lib.rs`. Paths inside macros are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, ItemMod, ItemUse, UseTree, Visibility};

/// Longer files have more than one responsibility.
const MAX_LINES: usize = 700;

/// The folder or file below `src` that a module path starts with, and the path itself.
type ModulePath = Vec<String>;

#[test]
fn imports_follow_the_floors() {
    let tree = SourceTree::read();
    let floors = floors();
    let mut wrong = Vec::new();
    for (from, to) in tree.imports() {
        let (Some(upper), Some(lower)) = (top_module(&from), top_module(&to)) else { continue };
        let [above, below] = [&upper, &lower].map(|module| {
            *floors.get(module).unwrap_or_else(|| panic!("{module} is not in the table of src/lib.rs"))
        });
        if upper != lower && (below > above || (below == above && above > 1)) {
            wrong.push(format!("{} (floor {above}) imports {} (floor {below})", show(&from), show(&to)));
        }
    }
    assert!(wrong.is_empty(), "imports that do not go down:\n{}", wrong.join("\n"));
}

#[test]
fn files_form_no_import_cycle() {
    let mut imports: BTreeMap<ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for (from, to) in SourceTree::read().imports() {
        imports.entry(from).or_default().insert(to);
    }
    // A file that imports nothing, or that nothing imports, is in no cycle; nor is it after such files are removed.
    loop {
        let before = imports.len();
        let importing: BTreeSet<_> = imports.keys().cloned().collect();
        imports.values_mut().for_each(|targets| targets.retain(|target| importing.contains(target)));
        let imported: BTreeSet<_> = imports.values().flatten().cloned().collect();
        imports.retain(|module, targets| !targets.is_empty() && imported.contains(module));
        if imports.len() == before {
            break;
        }
    }
    let line = |(from, to): (&ModulePath, &BTreeSet<ModulePath>)| {
        format!("{} -> {}", show(from), to.iter().map(show).collect::<Vec<_>>().join(", "))
    };
    assert!(
        imports.is_empty(),
        "import cycles:\n{}",
        imports.iter().map(line).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn files_are_described_and_not_too_long() {
    let mut wrong = Vec::new();
    for path in rust_files(&source()) {
        let text = fs::read_to_string(&path).unwrap();
        if text.lines().count() > MAX_LINES {
            wrong.push(format!("{} has more than {MAX_LINES} lines", path.display()));
        }
        if !text.starts_with("//!") && path.file_name().is_some_and(|name| name != "tests.rs") {
            wrong.push(format!("{} does not start with its description (//!)", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All modules in files below `src`, except tests.
struct SourceTree {
    files: BTreeMap<ModulePath, File>,
    /// What a module re-exports from its children: the name, and the path it stands for.
    exports: BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
}

impl SourceTree {
    fn read() -> Self {
        let files: BTreeMap<_, _> = rust_files(&source())
            .into_iter()
            .filter(|path| !path.ends_with("tests.rs") && !path.ends_with("pm2_tests.rs"))
            .filter(|path| !path.ends_with("main.rs"))
            .map(|path| (module_path(&path), syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap()))
            .collect();
        let exports = files.iter().map(|(module, file)| (module.clone(), exports_of(module, file))).collect();
        Self { files, exports }
    }

    /// Pairs of modules of which the first imports something that the second defines.
    fn imports(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let mut imports = BTreeSet::new();
        for (module, file) in &self.files {
            let mut paths = Paths { module, found: Vec::new() };
            paths.visit_file(file);
            let targets = paths.found.iter().filter_map(|path| self.definer(path, 0));
            imports.extend(targets.filter(|to| to != module).map(|to| (module.clone(), to)));
        }
        imports
    }

    /// The module whose file defines what a path names.
    fn definer(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let length = (0..=path.len()).rev().find(|&length| self.files.contains_key(&path[..length]))?;
        let (module, rest) = path.split_at(length);
        let exported = rest.first().and_then(|name| self.exports.get(module)?.get(name));
        match exported {
            Some(target) if depth < 8 => {
                let full: ModulePath = target.iter().chain(&rest[1..]).cloned().collect();
                self.definer(&full, depth + 1)
            }
            _ => (!module.is_empty()).then(|| module.to_vec()),
        }
    }
}

/// Paths of this crate in a file's code, resolved to its root.
struct Paths<'a> {
    module: &'a ModulePath,
    found: Vec<ModulePath>,
}

impl<'a> Visit<'a> for Paths<'a> {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        // A re-export does not use what it names.
        if matches!(item.vis, Visibility::Inherited) && !is_test(&item.attrs) {
            let names = leaves(&item.tree);
            self.found.extend(names.iter().filter_map(|(path, _)| absolute(self.module, path)));
        }
    }

    fn visit_vis_restricted(&mut self, _: &'a syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.found.extend(absolute(self.module, &names));
        visit::visit_path(self, path);
    }
}

fn exports_of(module: &ModulePath, file: &File) -> BTreeMap<String, ModulePath> {
    let reexports = file.items.iter().filter_map(|item| match item {
        Item::Use(item) if !matches!(item.vis, Visibility::Inherited) => Some(leaves(&item.tree)),
        _ => None,
    });
    let children = file.items.iter().filter_map(|item| match item {
        Item::Mod(item) => Some(item.ident.to_string()),
        _ => None,
    });
    let children: BTreeSet<_> = children.collect();
    let target = |path: &ModulePath| match path.first() {
        Some(first) if children.contains(first) => Some(module.iter().chain(path).cloned().collect()),
        _ => absolute(module, path),
    };
    reexports.flatten().filter_map(|(path, name)| Some((name, target(&path)?))).collect()
}

/// The names a `use` brings into scope, each with its whole path.
fn leaves(tree: &UseTree) -> Vec<(ModulePath, String)> {
    let below = |prefix: String, tree: &UseTree| {
        leaves(tree).into_iter().map(|(path, name)| ([vec![prefix.clone()], path].concat(), name)).collect()
    };
    match tree {
        UseTree::Path(path) => below(path.ident.to_string(), &path.tree),
        UseTree::Name(name) if name.ident == "self" => vec![(Vec::new(), String::new())],
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(name) => vec![(vec![name.ident.to_string()], name.rename.to_string())],
        UseTree::Glob(_) => vec![(Vec::new(), String::new())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// A path that starts with `crate`, `self` or `super`, from the root of the crate.
fn absolute(module: &ModulePath, path: &[String]) -> Option<ModulePath> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some(module.iter().chain(&path[1..]).cloned().collect()),
        "super" => {
            let parent = module.len().checked_sub(supers)?;
            Some(module[..parent].iter().chain(&path[supers..]).cloned().collect())
        }
        _ => None,
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// The floor of each module, from the table in `src/lib.rs`.
fn floors() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! |")?.split('|').map(str::trim);
        Some((cells.next()?.parse::<u32>().ok()?, cells.next()?.to_owned()))
    });
    let names = rows.flat_map(|(floor, modules)| {
        let names: Vec<_> = modules.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, floor))
    });
    names.collect()
}

fn top_module(module: &ModulePath) -> Option<String> {
    module.first().cloned()
}

fn module_path(file: &Path) -> ModulePath {
    let relative = file.strip_prefix(source()).unwrap().with_extension("");
    let mut names: ModulePath = relative.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

fn show(module: &ModulePath) -> String {
    module.join("::")
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
