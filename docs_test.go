package slipway_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOneRunNames holds docs/one-run.md to the code: every function and type that it names exists.
func TestOneRunNames(t *testing.T) {
	text, err := os.ReadFile("docs/one-run.md")
	if err != nil {
		t.Fatal(err)
	}
	known := declared(t)
	found := 0
	for _, match := range regexp.MustCompile("`([A-Za-z]+(?:\\.[A-Za-z]+)+)`").FindAllStringSubmatch(string(text), -1) {
		name := match[1]
		if strings.HasSuffix(name, ".go") {
			continue
		}
		found++
		if !known[name] {
			t.Errorf("docs/one-run.md: there is no %s", name)
		}
	}
	if found < 20 {
		t.Errorf("docs/one-run.md names only %d functions; is it still the tour that it was?", found)
	}
}

// declared returns what the sources declare, as package.Name, Type.Method, Type.Field and package.Type.Method.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	visit := func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		add := func(name string) { known[name], known[file.Name.Name+"."+name] = true, true }
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name.Name)
				} else {
					add(receiver(d.Recv.List[0].Type) + "." + d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if typed, ok := spec.(*ast.TypeSpec); ok {
						add(typed.Name.Name)
						for _, member := range members(typed.Type) {
							add(typed.Name.Name + "." + member)
						}
					}
				}
			}
		}
		return nil
	}
	for _, dir := range []string{"cmd", "internal"} {
		if err := filepath.WalkDir(dir, visit); err != nil {
			t.Fatal(err)
		}
	}
	return known
}

func receiver(expr ast.Expr) string {
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if ident, ok := expr.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

// members returns the fields of a struct, or the methods of an interface.
func members(expr ast.Expr) []string {
	var list *ast.FieldList
	switch typed := expr.(type) {
	case *ast.StructType:
		list = typed.Fields
	case *ast.InterfaceType:
		list = typed.Methods
	default:
		return nil
	}
	var names []string
	for _, field := range list.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

// TestLinks holds the links of all pages to files, and to headings of pages, that exist.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "bench/README.md")
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`\]\(([^()\s]+)\)`).FindAllStringSubmatch(string(text), -1) {
			target, heading, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			found++
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, match[1])
			} else if heading != "" && !headings(t, path)[heading] {
				t.Errorf("%s links to %s, which has no such heading", page, match[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d links were found", found)
	}
}

// headings returns the anchors of a page's headings.
func headings(t *testing.T, page string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		anchor := strings.ReplaceAll(strings.ToLower(match[1]), " ", "-")
		anchors[regexp.MustCompile(`[^-a-z0-9_]`).ReplaceAllString(anchor, "")] = true
	}
	return anchors
}
