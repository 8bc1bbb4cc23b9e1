package main

import (
	"flag"
	"fmt"
	"strings"
)

const completionUsage = `immutable completion bash|zsh|fish

Prints a completion script.

  source <(immutable completion bash)
  immutable completion zsh > "${fpath[1]}/_immutable"
  immutable completion fish > ~/.config/fish/completions/immutable.fish
` + commonFlags

func setupCompletion(c *call) func() error {
	return func() error {
		if err := c.arguments(1, 1, "bash, zsh or fish"); err != nil {
			return err
		}
		script, ok := map[string]func(*app) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.args[0]]
		if !ok {
			return c.usagef("want bash, zsh or fish, not %s", quote(c.args[0]))
		}
		text := script(c.app)
		if c.json {
			return c.answer(map[string]string{"shell": c.args[0], "script": text})
		}
		c.out.raw(text)
		return nil
	}
}

// words are the arguments that a command takes from a fixed set.
var words = map[string]string{
	"log": "info warn error critical audit security revenue system", "checkpoint": "show list compare", "key": "show chain rotate", "clock": "reset",
	"completion": "bash zsh fish",
}

func flagNames(a *app, cmd *command) []string {
	c := newCall(a, cmd)
	cmd.setup(c)
	var names []string
	c.set.VisitAll(func(f *flag.Flag) {
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		names = append(names, dashes+f.Name)
	})
	return names
}

func commandNames() string {
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	return strings.Join(append(names, "help"), " ")
}

func bashCompletion(a *app) string {
	var b strings.Builder
	b.WriteString("# bash completion for immutable\n_immutable() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\n\tif [ \"$COMP_CWORD\" = 1 ]; then\n")
	fmt.Fprintf(&b, "\t\tCOMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n\t\treturn\n\tfi\n\tcase ${COMP_WORDS[1]} in\n", commandNames())
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "\t%s) words='%s' ;;\n", cmd.name, strings.TrimSpace(words[cmd.name]+" "+strings.Join(flagNames(a, &cmd), " ")))
	}
	b.WriteString("\tesac\n\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -o default -F _immutable immutable\n")
	return b.String()
}

func zshCompletion(a *app) string {
	var b strings.Builder
	b.WriteString("#compdef immutable\n_immutable() {\n\tif (( CURRENT == 2 )); then\n\t\tlocal -a commands=(\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "\t\t\t'%s:%s'\n", cmd.name, strings.ReplaceAll(cmd.summary, "'", "’"))
	}
	b.WriteString("\t\t)\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "\t%s) compadd -- %s ;;\n", cmd.name, strings.TrimSpace(words[cmd.name]+" "+strings.Join(flagNames(a, &cmd), " ")))
	}
	b.WriteString("\tesac\n\t_files\n}\n_immutable \"$@\"\n")
	return b.String()
}

func fishCompletion(a *app) string {
	var b strings.Builder
	b.WriteString("# fish completion for immutable\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "complete -c immutable -n __fish_use_subcommand -f -a %s -d '%s'\n", cmd.name, strings.ReplaceAll(cmd.summary, "'", "’"))
		if w := words[cmd.name]; w != "" {
			fmt.Fprintf(&b, "complete -c immutable -n '__fish_seen_subcommand_from %s' -f -a '%s'\n", cmd.name, w)
		}
		for _, f := range flagNames(a, &cmd) {
			option := "-l " + strings.TrimPrefix(f, "--")
			if !strings.HasPrefix(f, "--") {
				option = "-s " + f[1:]
			}
			fmt.Fprintf(&b, "complete -c immutable -n '__fish_seen_subcommand_from %s' %s\n", cmd.name, option)
		}
	}
	return b.String()
}
