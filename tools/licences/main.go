// Command licences lists the modules that a build contains and refuses those whose licence is not permissive.
//
// It reads "path<TAB>version<TAB>directory" lines, one module each, from standard input, and classifies the licence files in
// the directory by their whole text, so that a licence with an extra clause is not taken for the one it resembles.
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

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run() error {
	seen, refused := 0, 0
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		path, rest, _ := strings.Cut(in.Text(), "\t")
		version, dir, ok := strings.Cut(rest, "\t")
		if !ok || dir == "" {
			return fmt.Errorf("module line %q has no directory: run go mod download first", in.Text())
		}
		seen++
		ids, err := classify(dir)
		if err != nil {
			refused++
			fmt.Printf("REFUSED  %s %s: %v\n", path, version, err)
			continue
		}
		fmt.Printf("%-30s %s %s\n", strings.Join(ids, " "), path, version)
	}
	if err := in.Err(); err != nil {
		return err
	}
	if seen == 0 {
		return fmt.Errorf("no module on standard input")
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d modules refused", refused, seen)
	}
	return nil
}

// classify returns the identifiers of the licences in dir's top level. Every licence file must be known and permissive:
// with a choice of licences a person decides and the module gets replaced or argued for.
func classify(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, f := range files {
		if f.IsDir() || !licenceFile.MatchString(f.Name()) {
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
			if !slices.Contains(ids, m.ID) {
				ids = append(ids, m.ID)
			}
		}
	}
	if !slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(permissive, id) }) {
		return nil, fmt.Errorf("no licence file")
	}
	return ids, nil
}
