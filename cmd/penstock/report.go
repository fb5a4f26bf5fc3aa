package main

import (
	"encoding/xml"
	"fmt"
	"strings"

	"penstock/registry"
	"penstock/registry/compat"
)

// reportFlag is outputFlag with the formats that build pipelines read.
type reportFlag struct {
	Output string `short:"o" enum:"text,json,junit,sarif,github,markdown" default:"text" help:"Print text, json, junit, sarif, github or markdown."`
}

// report is what came of checking a schema file against a subject.
type report struct {
	Subject    string             `json:"subject"`
	File       string             `json:"file"`
	Compatible bool               `json:"compatible"`
	Findings   []registry.Finding `json:"findings"`
}

// locate finds the places of findings in the text of the new schema, where the
// registry has not.
func locate(s registry.Schema, findings []registry.Finding) {
	for i := range findings {
		f := &findings[i]
		if f.Direction == registry.Forward && f.WriterAt == nil {
			f.WriterAt = compat.Checker{}.Locate(s.SchemaType, s.Schema, f.WriterPath)
		} else if f.Direction == registry.Backward && f.ReaderAt == nil {
			f.ReaderAt = compat.Checker{}.Locate(s.SchemaType, s.Schema, f.ReaderPath)
		}
	}
}

// newSide is the place of a finding in the new schema, nil if it is not known.
func newSide(f registry.Finding) *registry.Position {
	if f.Direction == registry.Forward {
		return f.WriterAt
	}
	return f.ReaderAt
}

// write prints reports in the format that was asked for.
func (f reportFlag) write(t *terminal, all ...report) error {
	var problems []problem
	for _, r := range all {
		problems = append(problems, r.problems()...)
	}
	switch f.Output {
	case "junit":
		return junit(t, "penstock schema check", all[0].Subject, all[0].File, problems)
	case "sarif":
		return t.object(sarif(problems))
	case "github":
		github(t, problems)
		return nil
	}
	for _, r := range all {
		switch f.Output {
		case "json":
			if r.Findings == nil {
				r.Findings = []registry.Finding{}
			}
			if err := t.object(r); err != nil {
				return err
			}
		case "markdown":
			r.markdown(t)
		default:
			printFindings(t, r.Findings, "")
			t.printf("%s is %s with %s\n", r.File, r.verdict(), r.Subject)
		}
	}
	return nil
}

func (r report) verdict() string {
	if r.Compatible {
		return "compatible"
	}
	return "NOT compatible"
}

// titled is a finding's rule and where it was broken, as far as that is known:
// other registries say less.
func titled(f registry.Finding) string {
	if f.ReaderPath == "" {
		return f.Rule
	}
	return f.Rule + " at " + f.ReaderPath
}

// compared is what a finding was made with, in brackets behind a space, or
// nothing.
func compared(f registry.Finding) string {
	switch {
	case f.Version == 0:
		return ""
	case f.Direction == "":
		return fmt.Sprintf(" (version %d)", f.Version)
	}
	return fmt.Sprintf(" (version %d, %s)", f.Version, f.Direction)
}

// explained is a finding's message and what to do about it.
func explained(f registry.Finding) string {
	text := f.Message + compared(f)
	if f.Fix != "" {
		text += "; to fix it: " + f.Fix
	}
	return text
}

// problem is what build pipelines are told about one finding.
type problem struct {
	class, file string // what was looked at, and in which file
	title, rule string
	severity    registry.Severity
	at          *registry.Position // nil where it is not known
	message     string
	explained   string // and what to do about it
}

func (r report) problems() []problem {
	var all []problem
	for _, f := range r.Findings {
		all = append(all, problem{r.Subject, r.File, titled(f), f.Rule, f.Severity, newSide(f), f.Message, explained(f)})
	}
	return all
}

// junit is a test case an error, or one that passes.
func junit(t *terminal, name, class, file string, all []problem) error {
	type failure struct {
		Type    string `xml:"type,attr"`
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testCase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		File    string   `xml:"file,attr"`
		Line    int      `xml:"line,attr,omitempty"`
		Failure *failure `xml:"failure"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Cases    []testCase `xml:"testcase"`
	}{Name: name}
	for _, p := range all {
		if p.severity != registry.SeverityError {
			continue
		}
		c := testCase{Class: p.class, Name: p.title, File: p.file, Failure: &failure{p.rule, p.message, p.explained}}
		if p.at != nil {
			c.Line = p.at.Line
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.Failures = len(suite.Cases)
	if suite.Cases == nil {
		suite.Cases = []testCase{{Class: class, Name: "compatible", File: file}}
	}
	suite.Tests = len(suite.Cases)
	text, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return fmt.Errorf("write junit report: %w", err)
	}
	t.printf("%s%s\n", xml.Header, text)
	return nil
}

// sarif is a report in SARIF 2.1.0.
func sarif(all []problem) any {
	type object = map[string]any
	levels := map[registry.Severity]string{
		registry.SeverityError: "error", registry.SeverityWarning: "warning", registry.SeverityInfo: "note",
	}
	results, rules, known := []any{}, []any{}, map[string]bool{}
	for _, p := range all {
		if !known[p.rule] {
			known[p.rule] = true
			rules = append(rules, object{"id": p.rule})
		}
		place := object{"artifactLocation": object{"uri": p.file}}
		if p.at != nil {
			place["region"] = object{"startLine": p.at.Line, "startColumn": p.at.Column}
		}
		results = append(results, object{
			"ruleId": p.rule, "level": levels[p.severity],
			"message":   object{"text": p.explained},
			"locations": []any{object{"physicalLocation": place}},
		})
	}
	return object{
		"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
		"runs": []any{object{
			"tool":    object{"driver": object{"name": "penstock", "version": version, "rules": rules}},
			"results": results,
		}},
	}
}

// github prints the annotations that a workflow shows beside the file.
func github(t *terminal, all []problem) {
	text := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	commands := map[registry.Severity]string{
		registry.SeverityError: "error", registry.SeverityWarning: "warning", registry.SeverityInfo: "notice",
	}
	for _, p := range all {
		place := ""
		if p.at != nil {
			place = fmt.Sprintf(",line=%d,col=%d", p.at.Line, p.at.Column)
		}
		t.printf("::%s file=%s%s,title=%s::%s\n", commands[p.severity], property.Replace(p.file), place, property.Replace(p.rule), text.Replace(p.explained))
	}
}

// markdownCell makes a text fit into a cell of a table.
var markdownCell = strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;")

// markdown is a table for a comment on a change.
func (r report) markdown(t *terminal) {
	cell := markdownCell
	t.printf("**%s** is %s with **%s**\n", cell.Replace(r.File), r.verdict(), cell.Replace(r.Subject))
	if len(r.Findings) == 0 {
		return
	}
	t.printf("\n| severity | rule | where | version | what it breaks | fix |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, f := range r.Findings {
		where := "`" + f.ReaderPath + "`"
		if at := newSide(f); at != nil {
			where += fmt.Sprintf(", line %d", at.Line)
		}
		t.printf("| %s | %s | %s | %d | %s | %s |\n", f.Severity, f.Rule, cell.Replace(where), f.Version, cell.Replace(f.Message), cell.Replace(f.Fix))
	}
}
