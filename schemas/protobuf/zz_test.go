package protobuf
import ("testing";"fmt")
func TestZZ(t *testing.T){
 s,err:=Format{}.Parse(`/* c */ syntax = "proto2"; package a.b; import "confluent/meta.proto"; import "google/type/date.proto"; import public "google/protobuf/timestamp.proto";
import weak "google/protobuf/any.proto";
import "google/protobuf/descriptor.proto";
option java_package = "x\x41\'é\n"; option (confluent.file_meta).doc = "d"; option (confluent.file_meta).params = {key: "a" value: "b"};
enum E { option allow_alias = true; reserved 5, 7 to 9, 2000 to max; reserved "X"; Z = 0; A = -1 [deprecated = true]; B = 0; }
message M { option (confluent.message_meta) = { tags: ["b", "a"], tags: "c" rules { name: "x" } rules < name: "y" > params: [] };
 message N { optional string s = 1; message Deep { optional int32 i = 1; oneof o { option (oo) = 1.23456; string x = 3; string y = 2; } enum F { Q = 0; } extensions 100 to 200, 300 to max; reserved 4 to 4; extend M { optional string ext = 500; } } }
 optional N n = 0x10 [deprecated = true, (confluent.field_meta) = { doc: "a" tags: ["x"] }, json_name = "nn", lazy = true];
 optional double d = 017 [default = 1e20]; optional bytes y = 3 [default = "\xff\000a"]; optional float fl = 4 [default = 0x1F];
 optional group G = 5 { optional int32 i = 1; }
 map<string, .a.b.M.N> m = 6 [deprecated=true];
 optional google.type.Date date = 7;
 extensions 500 to max; reserved "q", "p"; reserved 50, 40 to 45;
 optional E e = 8 [default = A];
 repeated b.E es = 9 [packed = true];
}
extend M { optional int32 e2 = 502; optional int32 e1 = 501; }
extend google.protobuf.OneofOptions { optional float oo = 5000; }
extend M { optional int32 e3 = 503; }
service S { option deprecated = true; rpc R(M) returns (stream M.N) { option deprecated = true; }; rpc Q(stream M) returns (M); }
message Empty {};
`,nil)
 if err!=nil { t.Fatal(err) }
 fmt.Println(s.Canonical())
 n,err:=s.(*Schema).Normalized(); fmt.Println(n,err)
 for i, x := range []string{s.Canonical(), n} {
  a,err:=Format{}.Parse(x,nil)
  if err!=nil { t.Fatal(i, err) }
  if i==0 && a.Canonical()!=x { t.Error("not idem", a.Canonical()) }
  m,_:=a.(*Schema).Normalized()
  if m!=n { t.Error(i, m) }
 }
 b,err:=s.(*Schema).Text("serialized"); fmt.Println(b,err)
 a,err:=Format{}.Parse(b,nil)
 if err!=nil { t.Fatal(err) }
 fmt.Println(a.Canonical())
  m,_:=a.(*Schema).Normalized()
  if m!=n { t.Error(m) }
 i,err:=s.(*Schema).Text("ignore_extensions"); fmt.Println(i,err)
}
