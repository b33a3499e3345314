// Package slipway_test holds the code to the rules of ARCHITECTURE.md: who may import whom, and what every package has.
//
// The sources are parsed in this process, not through `go list`: the test cache knows which files a test reads, but not
// what a subprocess reads, and a stale pass would hide a violation.
package slipway_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "slipway"

// pkg is one package of the main module.
type pkg struct {
	dir     string // relative to the root, with slashes
	doc     string
	inits   []string            // positions of init functions
	imports map[string][]string // packages of this module, by the non-test files that import them
}

func TestImports(t *testing.T) {
	allowed := readRules(t)
	packages := load(t)
	used := map[string]bool{}
	for _, p := range packages {
		name := strings.TrimPrefix(p.dir, "internal/")
		rule, ok := findRule(allowed, name)
		if !ok {
			t.Errorf("%s: package %s has no line in the imports block of ARCHITECTURE.md", p.dir, name)
			continue
		}
		used[rule] = true
		for imported, files := range p.imports {
			if !permits(allowed[rule], strings.TrimPrefix(imported, "internal/")) {
				t.Errorf("%s: %s may not import %s; see the imports block of ARCHITECTURE.md", strings.Join(files, ", "), name, imported)
			}
		}
	}
	for rule := range allowed {
		if !used[rule] {
			t.Errorf("ARCHITECTURE.md: the imports block has a line for %q, which does not exist", rule)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range load(t) {
		if len(strings.Fields(p.doc)) < 8 {
			t.Errorf("%s: the package comment must say what the package is for; it says %q", p.dir, p.doc)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, p := range load(t) {
		for _, at := range p.inits {
			t.Errorf("%s: no init functions: what a process is made of stands in its wiring", at)
		}
	}
}

func TestPackageNames(t *testing.T) {
	banned := []string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc"}
	for _, p := range load(t) {
		if slices.Contains(banned, path.Base(p.dir)) {
			t.Errorf("%s: a package is a concept or a technology", p.dir)
		}
	}
}

func TestNoReplace(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^replace\b`).Match(data) {
		t.Error("go.mod: a replace breaks `go install` for everybody else")
	}
}

// readRules returns the imports block: what each package may import of this module.
func readRules(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rules := map[string][]string{}
	inside := false
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "```imports":
			inside = true
		case line == "```":
			inside = false
		case inside:
			name, rest, ok := strings.Cut(line, ":")
			if !ok {
				t.Fatalf("ARCHITECTURE.md: %q is not `package : imports`", line)
			}
			rest, _, _ = strings.Cut(rest, "#")
			rules[strings.TrimSpace(name)] = strings.Fields(rest)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(rules) == 0 {
		t.Fatal("ARCHITECTURE.md has no imports block")
	}
	return rules
}

// findRule returns the rule for a package: its own, or that of the nearest parent followed by /*.
func findRule(rules map[string][]string, name string) (string, bool) {
	if _, ok := rules[name]; ok {
		return name, true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := rules[dir+"/*"]; ok {
			return dir + "/*", true
		}
	}
	return "", false
}

func permits(allowed []string, imported string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		prefix, isTree := strings.CutSuffix(a, "*")
		return a == imported || isTree && strings.HasPrefix(imported, prefix)
	})
}

// load parses every package of the main module.
func load(t *testing.T) []*pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name == "." {
				return nil
			}
			_, notModule := os.Stat(filepath.Join(name, "go.mod"))
			if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || name == "bin" || notModule == nil {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		p := byDir[dir]
		if p == nil {
			p = &pkg{dir: dir, imports: map[string][]string{}}
			byDir[dir] = p
		}
		return p.parse(name)
	})
	if err != nil {
		t.Fatal(err)
	}
	var packages []*pkg
	for _, p := range byDir {
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return packages
}

func (p *pkg) parse(name string) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	if file.Doc != nil {
		p.doc += file.Doc.Text()
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(imported, module+"/"); ok {
			p.imports[rest] = append(p.imports[rest], name)
		}
	}
	for _, decl := range file.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			p.inits = append(p.inits, set.Position(fn.Pos()).String())
		}
	}
	return nil
}
