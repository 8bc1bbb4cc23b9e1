// Command apiroots prints a Go program that refers to everything the public packages export.
//
// A library's exported functions have no caller in its own repository. deadcode starts from this program as well as from
// the commands, so that an internal function counts as alive if a user of the library can reach it, and only then.
//
// It reads "import path<TAB>directory<TAB>file file …" lines from standard input. Functions are referred to by value and
// types through an interface, which makes their exported methods reachable too. Generic declarations are left out: they
// would need type arguments; the commands and examples that instantiate them keep them alive.
package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "apiroots:", err)
		os.Exit(1)
	}
}

func run() error {
	var imports, roots strings.Builder
	in := bufio.NewScanner(os.Stdin)
	for n := 0; in.Scan(); n++ {
		fields := strings.Split(in.Text(), "\t")
		if len(fields) != 3 {
			return fmt.Errorf("line %q has %d fields, want import path, directory and files", in.Text(), len(fields))
		}
		name := fmt.Sprintf("p%d", n)
		found, err := exported(fields[1], strings.Fields(fields[2]), name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			name = "_"
		}
		fmt.Fprintf(&imports, "\t%s %q\n", name, fields[0])
		for _, expr := range found {
			fmt.Fprintf(&roots, "\t\t%s,\n", expr)
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	fmt.Printf("package main\n\nimport (\n\t\"fmt\"\n%s)\n\nfunc main() {\n\tfmt.Println([]any{\n%s\t}...)\n}\n", &imports, &roots)
	return nil
}

// exported returns one expression per exported function, variable and type that files in dir declare.
func exported(dir string, files []string, pkg string) ([]string, error) {
	var found []string
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Type.TypeParams == nil {
					found = append(found, pkg+"."+d.Name.Name)
				}
			case *ast.GenDecl:
				found = append(found, fromSpecs(d.Specs, pkg, d.Tok == token.VAR)...)
			}
		}
	}
	return found, nil
}

func fromSpecs(specs []ast.Spec, pkg string, vars bool) []string {
	var found []string
	for _, s := range specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.TypeParams == nil {
				found = append(found, "new("+pkg+"."+s.Name.Name+")")
			}
		case *ast.ValueSpec:
			for _, n := range s.Names {
				if vars && n.IsExported() {
					found = append(found, "&"+pkg+"."+n.Name)
				}
			}
		}
	}
	return found
}
