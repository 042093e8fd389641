. /tmp/attention/env.sh; cd /tmp/attention
CASE=$1 N=$2 perf record -o /tmp/attention/perf.data -e cpu-clock $PY one2.py 2>&1 | cat;  perf report -i perf.data --stdio -F overhead,sym 2>&1 | grep -v "^#" | cut -c1-120 | head -6
perf annotate -i perf.data --stdio -s "pie::attend_tile<6, pie::bf16>" 2>/dev/null > a1.txt
python3 - <<'P'
import re
rows=[]
for l in open('a1.txt'):
    m=re.match(r' +(\d+\.\d+) +: +([0-9a-f]+): +(.*)',l)
    if m: rows.append((float(m[1]),int(m[2],16),m[3][:70]))
cl=[]
for r in rows:
    if r[0]<0.03: continue
    if cl and r[1]-cl[-1][-1][1]<120: cl[-1].append(r)
    else: cl.append([r])
for c in cl:
    t=sum(r[0] for r in c)
    if t>1.0:
        print(f"  {t:6.2f}% {c[0][1]:x}-{c[-1][1]:x} n={len(c)}  top: ", [(r[0],hex(r[1]),r[2]) for r in sorted(c,reverse=True)[:4]])
P
