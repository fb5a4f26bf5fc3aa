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
	subjects := map[string]bool{} // by path: an argument is one
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
		for _, p := range n.Positional {
			subjects[path] = subjects[path] || p.Name == "subject" || p.Name == "source"
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
			if subjects[p] {
				t.printf("complete -c penstock -n %q -a %q\n", condition, "(penstock schema list --names 2>/dev/null)")
			}
		}
		t.printf("complete -c penstock -l subject -x -a %q\n", "(penstock schema list --names 2>/dev/null)")
		return nil
	}
	if c.Shell == "zsh" {
		t.printf("#compdef penstock\nautoload -U +X bashcompinit && bashcompinit\n")
	}
	var cases strings.Builder
	for _, p := range paths {
		more := ""
		if subjects[p] {
			more = "; subjects=1"
		}
		fmt.Fprintf(&cases, "    %q) words=%q%s ;;\n", p, strings.Join(words[p], " "), more)
	}
	// Subjects are asked of the registry that the line names. A shell takes URLs
	// apart into words, so they are looked for in the line.
	t.printf(`_penstock_subjects() {
  local at=()
  [[ "$COMP_LINE" =~ --registry[=\ ]+([^\ ]+) ]] && at+=(--registry "${BASH_REMATCH[1]:-${match[1]}}")
  [[ "$COMP_LINE" =~ --broker[=\ ]+([^\ ]+) ]] && at+=(--broker "${BASH_REMATCH[1]:-${match[1]}}")
  penstock schema list --names "${at[@]}" 2>/dev/null
}
_penstock() {
  local path="" words="" subjects="" w i
  for ((i = 1; i < COMP_CWORD; i++)); do
    w="${COMP_WORDS[i]}"
    case "$w" in -*) ;; *) case " %s " in *" ${path:+$path }$w|"*) path="${path:+$path }$w" ;; esac ;; esac
  done
  case "$path" in
%s  esac
  [ "${COMP_WORDS[COMP_CWORD-1]}" = --subject ] && words="" subjects=1
  case "${COMP_WORDS[COMP_CWORD]}" in -*) ;; *) [ -n "$subjects" ] && words="$words $(_penstock_subjects)" ;; esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
  [ ${#COMPREPLY[@]} -eq 0 ] && COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _penstock penstock
`, strings.Join(paths, "| ")+"|", cases.String())
	return nil
}
