// Command penstock publishes events that fit their schema and runs the
// consumers that turn them into rows, change events and models.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"penstock/schemas/samples"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exited is what kong's help and version flags unwind with.
type exited int

// run is the whole program. It returns the exit code: 0 done, 1 the answer is
// no, 2 wrong usage, 3 a server could not be reached, 4 anything else.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			code = int(r)
		default:
			panic(r)
		}
	}()
	var cli cli
	parser, err := kong.New(&cli,
		kong.Name("penstock"),
		kong.Description("Publish events that fit their schema, and run the consumers that turn them into rows, change events and models."),
		kong.Vars{"version": version, "broker": defaultBroker, "registry": defaultRegistry, "samples": strings.Join(samples.Names(), ", ")},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Resolvers(settings{}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		panic(err) // the grammar is wrong, which a test finds
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if err == nil {
		t := newTerminal(stdin, stdout, stderr, cli.Verbose)
		err = kctx.Run(t, parser, cli.Config)
		t.finish()
	}
	if err == nil {
		return exitDone
	}
	if s := sentence(err); s != "" {
		fmt.Fprintf(stderr, "penstock: %s\n", s)
	}
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		fmt.Fprintf(stderr, "Try 'penstock %s--help'.\n", commandOf(parse.Context))
	}
	return exitCode(err)
}

// commandOf is the command a faulty call got as far as, with a space behind.
func commandOf(ctx *kong.Context) string {
	if ctx == nil || ctx.Command() == "" {
		return ""
	}
	return commandWords(ctx) + " "
}
