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
