// Command licences lists the modules that a build contains and refuses those whose licence is not permissive.
//
// It reads "module path<TAB>version<TAB>module directory<TAB>package directory" lines, one per package, from standard input, and
// classifies the licence files of the package's directory and its parents up to the module's by their whole text, so that a
// licence with an extra clause is not taken for the one it resembles, and a copied part with terms of its own is seen.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// permissive holds the SPDX identifiers that may be linked into a closed program as long as the notice is kept.
var permissive = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "0BSD", "Zlib"}

// grants are texts that some projects put beside their licence; they give rights and take none.
var grants = []string{"GooglePatentsFile", "GooglePatentClause"}

// minCovered is the share of a licence file, in percent, that must be known text; the rest is names and years.
const minCovered = 75

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|patents)([-._].*)?$`)

var sourceFile = regexp.MustCompile(`\.(go|s|c|h|sh|py|json|yml|yaml)$`)

// module is one linked module with the directories that its packages use.
type module struct {
	name string // path and version
	dirs []string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run() error {
	modules, err := read()
	if err != nil {
		return err
	}
	refused := 0
	for _, m := range modules {
		ids, err := classify(m.dirs)
		if err != nil {
			refused++
			fmt.Printf("REFUSED  %s: %v\n", m.name, err)
			continue
		}
		fmt.Printf("%-30s %s\n", strings.Join(ids, " "), m.name)
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d modules refused", refused, len(modules))
	}
	return nil
}

func read() ([]module, error) {
	var modules []module
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fields := strings.Split(in.Text(), "\t")
		if len(fields) != 4 || fields[2] == "" {
			return nil, fmt.Errorf("line %q: want module path, version, module directory and package directory", in.Text())
		}
		name, root, dir := fields[0]+" "+fields[1], fields[2], fields[3]
		at := slices.IndexFunc(modules, func(m module) bool { return m.name == name })
		if at < 0 {
			at = len(modules)
			modules = append(modules, module{name: name, dirs: []string{root}})
		}
		for ; len(dir) > len(root); dir = filepath.Dir(dir) {
			if !slices.Contains(modules[at].dirs, dir) {
				modules[at].dirs = append(modules[at].dirs, dir)
			}
		}
	}
	return modules, in.Err()
}

// classify returns the identifiers of the licences in dirs, of which the first is the module's and must have one. Every licence
// file must be known and permissive: with a choice of licences a person decides, and the module is replaced or argued for.
func classify(dirs []string) ([]string, error) {
	var ids []string
	for i, dir := range dirs {
		found, err := classifyDir(dir)
		if err != nil {
			return nil, err
		}
		if i == 0 && !slices.ContainsFunc(found, func(id string) bool { return slices.Contains(permissive, id) }) {
			return nil, fmt.Errorf("no licence file in %s", filepath.Base(dir))
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func classifyDir(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, f := range files {
		if f.IsDir() || !licenceFile.MatchString(f.Name()) || sourceFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		cover := licensecheck.Scan(text)
		if cover.Percent < minCovered {
			return nil, fmt.Errorf("%s is a known licence only to %.0f%%", f.Name(), cover.Percent)
		}
		for _, m := range cover.Match {
			if !slices.Contains(permissive, m.ID) && !slices.Contains(grants, m.ID) {
				return nil, fmt.Errorf("%s is %s, which is not in the list of permissive licences", f.Name(), m.ID)
			}
			ids = append(ids, m.ID)
		}
	}
	return ids, nil
}
