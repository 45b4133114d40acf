// Renders the chart where there is no Helm: Go's own templates with sprig, which Helm is made of.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run ./deploy/helm/render CHART NAME NAMESPACE VALUES...
//
// Debian: golang-go, golang-github-masterminds-sprig-dev, golang-k8s-sigs-yaml-dev.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type object = map[string]interface{}

func main() {
	if len(os.Args) < 4 {
		fail(errors.New("usage: render CHART NAME NAMESPACE [VALUES]..."))
	}
	fail(render(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// render prints every manifest of the chart, templates in the order of their names; and on standard
// error what Helm says at the end.
func render(chart, name, namespace string, overlays []string) error {
	about, err := read(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return err
	}
	values := object{}
	for _, path := range append([]string{filepath.Join(chart, "values.yaml")}, overlays...) {
		over, err := read(path)
		if err != nil {
			return err
		}
		lay(values, over)
	}
	// Helm hands the chart's own fields over with capitals.
	described := object{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]}
	release := object{"Name": name, "Namespace": namespace, "Service": "kubectl"}
	files := files{chart}
	root := object{"Values": values, "Chart": described, "Release": release, "Files": files}

	all := template.New("chart").Option("missingkey=zero")
	all.Funcs(functions(all))
	templates, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil {
		return err
	}
	for _, file := range templates {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := all.New(filepath.Base(file)).Parse(string(text)); err != nil {
			return err
		}
	}
	for _, file := range templates {
		if filepath.Ext(file) == ".tpl" {
			continue
		}
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, filepath.Base(file), root); err != nil {
			return err
		}
		text := strings.TrimSpace(out.String())
		if filepath.Ext(file) == ".txt" {
			fmt.Fprintln(os.Stderr, text)
		} else if text != "" {
			fmt.Printf("---\n%s\n", text)
		}
	}
	return nil
}

// functions are those that Helm adds to sprig's, as far as the chart uses them.
func functions(all *template.Template) template.FuncMap {
	found := sprig.TxtFuncMap()
	found["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	found["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	found["fromYaml"] = func(text string) (object, error) {
		value := object{}
		return value, yaml.Unmarshal([]byte(text), &value)
	}
	// As `helm template` does: there is no cluster to look at.
	found["lookup"] = func(_, _, _, _ string) object { return object{} }
	found["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	return found
}

// files are what a template may put in as it is.
type files struct{ chart string }

// Get is a file's text; Helm answers what is missing with nothing.
func (f files) Get(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(f.chart, name))
	return string(text), err
}

func read(path string) (object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := object{}
	return found, yaml.Unmarshal(text, &found)
}

// lay puts values over others: objects are merged, everything else is replaced, null removes.
func lay(under, over object) {
	for key, value := range over {
		mine, isObject := under[key].(object)
		theirs, laysObject := value.(object)
		switch {
		case value == nil:
			delete(under, key)
		case isObject && laysObject:
			lay(mine, theirs)
		default:
			under[key] = value
		}
	}
}
