package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd prints what a shell needs to complete commands and flags.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help shows how to use the script.
func (completionCmd) Help() string {
	return `Examples:
  source <(penstock completion bash)
  penstock completion zsh > "${fpath[1]}/_penstock"
  penstock completion fish > ~/.config/fish/completions/penstock.fish`
}

// Run walks the grammar, so the script never lags behind it.
func (c *completionCmd) Run(t *terminal, k *kong.Kong) error {
	words := map[string][]string{}
	var paths []string
	var walk func(n *kong.Node, path string, inherited []string)
	walk = func(n *kong.Node, path string, inherited []string) {
		flags := inherited[:len(inherited):len(inherited)]
		for _, f := range n.Flags {
			if !f.Hidden {
				flags = append(flags, "--"+f.Name)
			}
		}
		var own []string
		for _, child := range n.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				own = append(own, child.Name)
				walk(child, strings.TrimSpace(path+" "+child.Name), flags)
			}
		}
		paths = append(paths, path)
		words[path] = append(own, flags...)
	}
	walk(k.Model.Node, "", nil)

	if c.Shell == "fish" {
		for _, p := range paths {
			condition := "__fish_use_subcommand"
			if p != "" {
				condition = "string match -qr '^penstock " + p + "( -|$| $)' -- (commandline -cp | string trim)"
			}
			t.printf("complete -c penstock -n %q -a %q\n", condition, strings.Join(words[p], " "))
		}
		return nil
	}
	if c.Shell == "zsh" {
		t.printf("#compdef penstock\nautoload -U +X bashcompinit && bashcompinit\n")
	}
	var cases strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&cases, "    %q) words=%q ;;\n", p, strings.Join(words[p], " "))
	}
	t.printf(`_penstock() {
  local path="" words="" w i
  for ((i = 1; i < COMP_CWORD; i++)); do
    w="${COMP_WORDS[i]}"
    case "$w" in -*) ;; *) case " %s " in *" ${path:+$path }$w|"*) path="${path:+$path }$w" ;; esac ;; esac
  done
  case "$path" in
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
  [ ${#COMPREPLY[@]} -eq 0 ] && COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _penstock penstock
`, strings.Join(paths, "| ")+"|", cases.String())
	return nil
}
