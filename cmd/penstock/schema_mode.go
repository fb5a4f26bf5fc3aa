package main

import (
	"context"
	"errors"
	"strings"

	"penstock/registry"
	"penstock/registry/client"
)

// schemaModeCmd shows, sets or takes away a mode.
type schemaModeCmd struct {
	Subject string `arg:"" optional:"" help:"Subject, or a context as :.name:. Default: all that have no mode of their own."`
	Set     string `placeholder:"MODE" xor:"change" help:"READWRITE, READONLY, READONLY_OVERRIDE, IMPORT or FORWARD. Default: show it."`
	Delete  bool   `xor:"change" help:"Take the mode of this subject away, so that the one of all holds."`
	Force   bool   `help:"With --set IMPORT: although there are schemas."`
	registryFlags
}

// Help shows examples.
func (schemaModeCmd) Help() string {
	return `Examples:
  penstock schema mode
  penstock schema mode flights-value --set readonly
  penstock schema mode flights-value --delete
  penstock schema mode --set import --force

READONLY refuses new schemas. IMPORT takes ids and versions as they are given,
to copy another registry, and checks no compatibility.`
}

// Run changes the mode if that is asked for, and prints what holds.
func (c *schemaModeCmd) Run(ctx context.Context, t *terminal) error {
	if c.Force && c.Set == "" {
		return usagef("--force goes with --set")
	}
	return c.with(func(reg *client.Client) error {
		switch {
		case c.Set != "":
			if err := reg.SetMode(ctx, c.Subject, registry.Mode(strings.ToUpper(c.Set)), c.Force); err != nil {
				return err
			}
		case c.Delete:
			if err := deleteSetting(ctx, reg, "mode", c.Subject); err != nil {
				return err
			}
		}
		mode, err := reg.Mode(ctx, c.Subject)
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(map[string]any{"subject": c.Subject, "mode": mode})
		}
		t.printf("%s\n", mode)
		return nil
	})
}

// deleteSetting takes a setting away; that there is none is fine.
func deleteSetting(ctx context.Context, reg *client.Client, kind, scope string) error {
	err := reg.DeleteSetting(ctx, kind, scope)
	for _, none := range []registry.Code{registry.CodeSubjectNotFound, registry.CodeConfigNotFound, registry.CodeModeNotFound} {
		if errors.Is(err, &registry.Error{Code: none}) {
			return nil
		}
	}
	return err
}
