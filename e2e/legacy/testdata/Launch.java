/** Starts an old war on a new Java, which does not let the command line say that it is an old one. */
public class Launch {
    public static void main(String[] a) throws Throwable {
        System.setProperty("java.version", "1.8.0_402");
        System.setProperty("java.specification.version", "1.8");
        System.setProperty("java.vm.vendor", "Sun Microsystems Inc. / Oracle Corporation");
        String[] rest = java.util.Arrays.copyOfRange(a, 1, a.length);
        try {
            ClassLoader.getSystemClassLoader().loadClass(a[0]).getMethod("main", String[].class).invoke(null, (Object) rest);
        } catch (java.lang.reflect.InvocationTargetException e) {
            throw e.getCause();
        }
    }
}
